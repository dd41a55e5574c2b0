//! What goes in and out of a `Store`, whichever backend serves it.

use bytes::Bytes;
use std::fmt;
use std::ops::Range;

/// Which of a store's two buckets holds an object. A directory store keeps both under one root:
/// the keys already begin with `packs/` or `manifests/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Packs: content-addressed, written once.
    Chunks,
    /// Manifests: overwritten under a condition.
    Manifests,
}

/// The store's name for one version of an object: opaque, equal only for the same version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(String);

impl ETag {
    /// Takes the tag as the store gave it, quotes included.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The tag as the store gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What must hold for a `put` to take place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: overwrite or create.
    #[default]
    None,
    /// The object exists and is this version.
    Matches(ETag),
    /// The object does not exist.
    Absent,
}

/// How to read an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Bytes to read; clipped to the object's length. A range that begins at or beyond the end
    /// gives an empty body, not an error.
    pub range: Option<Range<u64>>,
    /// Answer `NotModified` if the object still is this version.
    pub if_none_match: Option<ETag>,
}

impl GetOptions {
    /// Only these bytes.
    pub fn range(range: Range<u64>) -> Self {
        Self {
            range: Some(range),
            ..Self::default()
        }
    }

    /// Only if it is another version.
    pub fn unless(etag: ETag) -> Self {
        Self {
            if_none_match: Some(etag),
            ..Self::default()
        }
    }
}

/// The answer to a `get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// The object, or the range of it that was asked for.
    Object {
        /// The bytes.
        body: Bytes,
        /// The version that they belong to.
        etag: ETag,
        /// Length of the whole object in bytes.
        total_len: u64,
    },
    /// The object still is the version that `if_none_match` named.
    NotModified,
}

/// The answer to a `head`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The current version.
    pub etag: ETag,
    /// Its length in bytes.
    pub len: u64,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key, without the store's own prefix.
    pub key: String,
    /// Its version, if the store lists it.
    pub etag: Option<ETag>,
    /// Its length in bytes.
    pub len: u64,
}

/// A part of a listing. In a page, keys and prefixes are each sorted bytewise; from page to page too
/// in AWS and in a directory, but not in every compatible store (SeaweedFS lists `a/x` before
/// `a-/x`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects.
    pub objects: Vec<Listed>,
    /// With a delimiter: what lies below, as far as its next `/`, each ending with `/`.
    pub prefixes: Vec<String>,
    /// Continuation for the next page; `None` after the last. A page may be empty and not the last.
    pub next: Option<String>,
}

/// Most objects and prefixes of one page: S3's own limit.
pub const LIST_PAGE_LEN_MAX: u32 = 1_000;

/// Longest object that is read: a pack has at most 8 MiB and a manifest 4; what is longer is not ours
/// and must not fill the memory, which may have to hold some of them.
pub const OBJECT_LEN_MAX_BYTES: u64 = 16 << 20;
