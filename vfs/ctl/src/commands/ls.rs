//! `verneuilctl ls`: hosts, or the databases below a host or directory.

use std::os::unix::ffi::OsStrExt;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use verneuil_format::{Head, manifest_key};
use verneuil_replica::{Client, DirEntry, EntryKind, ReplicaError};
use verneuil_store::printable;

use crate::cli::{Common, Ls};
use crate::failure::Failure;
use crate::{output, session, time};

/// Requests for heads of manifests, and for directories, under way at the same time.
const REQUESTS_MAX: usize = 16;
/// Memory for the paths of databases and directories: some 200,000. A store could have a directory in every directory.
const FOUND_MAX_BYTES: usize = 32 << 20;
/// What a path takes beside its text.
const PATH_OVERHEAD_BYTES: usize = 100;

#[derive(Serialize)]
struct Host {
    host: String,
}

#[derive(Serialize)]
struct Database {
    host: String,
    path: String,
    /// Host and path for people.
    #[serde(skip)]
    name: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    length_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_time_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub fn run(common: &Common, args: &Ls) -> Result<(), Failure> {
    let config = session::config(common)?;
    let runtime = session::runtime()?;
    let Some(name) = &args.name else {
        let hosts = runtime
            .block_on(async { Ok::<_, Failure>(session::client(&config).await?.hosts().await?) })?;
        if common.json {
            return output::json(
                &hosts
                    .into_iter()
                    .map(|host| Host { host })
                    .collect::<Vec<_>>(),
            );
        }
        return hosts
            .iter()
            .try_for_each(|host| output::line(&printable(host.as_bytes())));
    };
    let (host, path) = split(name.as_bytes())?;
    let (total, failed) = runtime.block_on(async {
        let client = session::client(&config).await?;
        let mut paths = below(&client, &host, &path).await?;
        paths.sort_unstable();
        let (total, mut failed, mut for_json) = (paths.len(), 0, Vec::new());
        let mut described = stream::iter(paths)
            .map(|path| describe(&client, &host, path))
            .buffered(REQUESTS_MAX);
        while let Some(database) = described.next().await {
            failed += usize::from(database.error.is_some());
            if common.json {
                for_json.push(database);
            } else {
                output::line(&database.line())?;
            }
        }
        if common.json && total > 0 {
            output::json(&for_json)?;
        }
        Ok::<_, Failure>((total, failed))
    })?;
    if total == 0 {
        return Err(Failure::Failed(format!(
            "the store has no database below {}; see the hosts with: verneuilctl ls",
            printable(name.as_bytes())
        )));
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "{n} of {total} databases could not be looked up"
        ))),
    }
}

impl Database {
    fn line(&self) -> String {
        let (length, commit) = match (&self.error, self.length_bytes, self.commit_time_ns) {
            (None, Some(length), Some(commit)) => (length.to_string(), time::utc(commit)),
            _ => ("?".to_owned(), "?".to_owned()),
        };
        let error = self
            .error
            .as_ref()
            .map(|error| format!("  ({error})"))
            .unwrap_or_default();
        format!("{length:>14}  {commit:20}  {}{error}", self.name)
    }
}

/// `HOST` or `HOST/PATH` (any number of slashes between the two).
fn split(name: &[u8]) -> Result<(String, Vec<u8>), Failure> {
    let end = name.iter().position(|&b| b == b'/').unwrap_or(name.len());
    let host = std::str::from_utf8(&name[..end]).unwrap_or_default();
    if host.is_empty() {
        return Err(Failure::Usage(format!(
            "{:?} does not start with the name of a host; give HOST or HOST/PATH",
            String::from_utf8_lossy(name)
        )));
    }
    let names = name[end..]
        .split(|&b| b == b'/')
        .filter(|name| !name.is_empty());
    let path = names.fold(Vec::new(), |mut path, name| {
        path.push(b'/');
        path.extend_from_slice(name);
        path
    });
    Ok((host.to_owned(), path))
}

/// Paths of the database `top` and of all below the directory `top` (empty for the root).
async fn below(client: &Client, host: &str, top: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut found = Vec::new();
    if !top.is_empty() && client.stat(&manifest_key(host, top)).await?.is_some() {
        found.push(top.to_owned());
    }
    let (mut directories, mut held_bytes) = (vec![top.to_owned()], 0);
    while !directories.is_empty() {
        let mut listed = stream::iter(std::mem::take(&mut directories))
            .map(|directory| async move {
                let entries = client.list(host, &directory).await?;
                Ok::<_, ReplicaError>((directory, entries))
            })
            .buffer_unordered(REQUESTS_MAX);
        while let Some((directory, entries)) = listed.try_next().await? {
            for DirEntry { name, kind } in entries {
                let path = [&directory[..], b"/", &name[..]].concat();
                held_bytes += path.len() + PATH_OVERHEAD_BYTES;
                if held_bytes > FOUND_MAX_BYTES {
                    return Err(Failure::Failed(format!(
                        "there are too many databases and directories below {}{} to list them all; name one of the directories",
                        printable(host.as_bytes()),
                        printable(top)
                    )));
                }
                match kind {
                    EntryKind::Database => found.push(path),
                    EntryKind::Directory => directories.push(path),
                }
            }
        }
    }
    Ok(found)
}

async fn describe(client: &Client, host: &str, path: Vec<u8>) -> Database {
    let key = manifest_key(host, &path);
    let (head, error): (Option<Head>, Option<String>) = match client.stat(&key).await {
        Ok(Some(head)) => (Some(head), None),
        Ok(None) => (None, Some("it has just been removed".to_owned())),
        Err(error) => (None, Some(printable(error.to_string().as_bytes()))),
    };
    Database {
        host: host.to_owned(),
        name: printable(&[host.as_bytes(), &path].concat()),
        path: output::json_path(&path),
        key,
        length_bytes: head.map(|head| head.file_len),
        generation: head.map(|head| head.generation.0),
        commit_time_ns: head.map(|head| head.commit_time_ns),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn host_and_path_are_told_apart() {
        let split = |name: &str| split(name.as_bytes()).expect("has a host");
        assert_eq!(split("web1"), ("web1".to_owned(), b"".to_vec()));
        assert_eq!(split("web1/"), ("web1".to_owned(), b"".to_vec()));
        assert_eq!(
            split("web1//srv/app.db"),
            ("web1".to_owned(), b"/srv/app.db".to_vec())
        );
        assert!(super::split(b"/srv/app.db").is_err());
    }
}
