//! What a request to an S3 store is for, as its first line and fields tell; `mod.rs` asks for each request that arrives.

use super::wire::Message;

/// Each kind of request that the products send, and those that S3 has beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A pack is written.
    PutPack,
    /// The first manifest of a database is written: there must be none.
    PutFirstManifest,
    /// A manifest is written in the place of the one before.
    PutNextManifest,
    /// A whole manifest is read, whichever it is.
    GetManifest,
    /// A whole manifest is read, unless it is the one that the reader has.
    GetNewerManifest,
    /// The head of a manifest is read.
    GetManifestHead,
    /// A part of a pack is read.
    GetPackRange,
    /// A whole pack is read.
    GetPack,
    /// Keys are listed.
    List,
    /// A bucket is made.
    CreateBucket,
    /// Length and version of an object, or whether there is a bucket.
    Head,
    /// Something is removed.
    Delete,
    /// Nothing that Verneuil knows of.
    Other,
}

impl Operation {
    /// Of a request.
    pub(super) fn of(request: &Message) -> Self {
        let mut words = request.first_line.split(' ');
        let method = words.next().unwrap_or_default();
        let (path, query) = split_target(words.next().unwrap_or_default());
        let key = path
            .trim_start_matches('/')
            .split_once('/')
            .map_or("", |(_, key)| key);
        let is_pack = key.starts_with("packs/") || key.contains("/packs/");
        let is_manifest = key.starts_with("manifests/") || key.contains("/manifests/");
        let has = |name| request.field(name).is_some();
        match method {
            "PUT" if key.is_empty() => Self::CreateBucket,
            "PUT" if is_pack => Self::PutPack,
            "PUT" if is_manifest && has("if-match") => Self::PutNextManifest,
            "PUT" if is_manifest && has("if-none-match") => Self::PutFirstManifest,
            "GET" if key.is_empty() && query.contains("list-type=2") => Self::List,
            "GET" if is_manifest && has("range") => Self::GetManifestHead,
            "GET" if is_manifest && has("if-none-match") => Self::GetNewerManifest,
            "GET" if is_manifest => Self::GetManifest,
            "GET" if is_pack && has("range") => Self::GetPackRange,
            "GET" if is_pack => Self::GetPack,
            "HEAD" => Self::Head,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// Path and query of a request's target.
pub(super) fn split_target(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_request_is_told_from_the_others() {
        for (line, fields, operation) in [
            (
                "PUT /b/packs/ab/cd?x-id=PutObject HTTP/1.1",
                "",
                Operation::PutPack,
            ),
            (
                "PUT /b/p/manifests/h/d%40?x-id=PutObject HTTP/1.1",
                "If-None-Match: *\r\n",
                Operation::PutFirstManifest,
            ),
            (
                "PUT /b/manifests/h/d%40 HTTP/1.1",
                "If-Match: \"1\"\r\n",
                Operation::PutNextManifest,
            ),
            (
                "GET /b/manifests/h/d%40 HTTP/1.1",
                "",
                Operation::GetManifest,
            ),
            (
                "GET /b/manifests/h/d%40 HTTP/1.1",
                "if-none-match: \"1\"\r\n",
                Operation::GetNewerManifest,
            ),
            (
                "GET /b/manifests/h/d%40 HTTP/1.1",
                "Range: bytes=0-63\r\n",
                Operation::GetManifestHead,
            ),
            (
                "GET /b/c/packs/ab/cd HTTP/1.1",
                "Range: bytes=0-63\r\n",
                Operation::GetPackRange,
            ),
            ("GET /b/packs/ab/cd HTTP/1.1", "", Operation::GetPack),
            (
                "GET /b?list-type=2&prefix=manifests%2F HTTP/1.1",
                "",
                Operation::List,
            ),
            (
                "GET /b/?list-type=2&prefix=packs%2F HTTP/1.1",
                "",
                Operation::List,
            ),
            ("PUT /b HTTP/1.1", "", Operation::CreateBucket),
            ("PUT /b/ HTTP/1.1", "", Operation::CreateBucket),
            ("HEAD /b/packs/ab/cd HTTP/1.1", "", Operation::Head),
            ("DELETE /b/packs/ab/cd HTTP/1.1", "", Operation::Delete),
            ("PUT /b/manifests/h/d%40 HTTP/1.1", "", Operation::Other),
        ] {
            let request = Message {
                head: format!("{line}\r\n{fields}\r\n").into_bytes(),
                first_line: line.to_owned(),
                body: Vec::new(),
            };
            assert_eq!(Operation::of(&request), operation, "{line} {fields}");
        }
    }
}
