//! What a store has: hosts, directories and databases, found by listing keys. The mount's `readdir` and
//! `verneuilctl ls` call this; names whose keys are hashed are read from their manifests through [`crate::client`].
//!
//! Names from a store are not trusted: one that could not be a file's name is left out, with a warning.

use std::collections::BTreeMap;

use futures::stream::{StreamExt, TryStreamExt};
use verneuil_format::limits::KEY_LEN_MAX_BYTES;
use verneuil_format::{
    DATABASE_MARK, MANIFESTS_PREFIX, Segment, decode_segment, deep_prefix, host_prefix,
    invert_manifest_key, path_segment,
};
use verneuil_store::{Space, Store};

use crate::client::Client;
use crate::error::ReplicaError;

/// Manifests that one listing reads at the same time, for their names.
const NAME_READS_MAX: usize = 8;
/// Keys that are asked for when one is enough: a few may be no good.
const FIRST_BELOW_PAGE_LEN: u32 = 16;
/// Pages of them that are looked through: a store could go on for ever.
const FIRST_BELOW_PAGES_MAX: usize = 8;
/// Memory for the keys of one listing: 200,000 databases in one folder. A store could go on for ever.
const LISTING_MAX_BYTES: usize = 32 << 20;
/// What a key takes beside its text.
const KEY_OVERHEAD_BYTES: usize = 100;
/// What a page counts for beside its keys: an empty one is progress, too, but not for ever.
const PAGE_OVERHEAD_BYTES: usize = 16 << 10;

/// One entry of a directory of a source host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name: never empty, `.` or `..`, and without `/` and NUL.
    pub name: Vec<u8>,
    /// What it is. A directory and a database may have the same name.
    pub kind: EntryKind,
}

/// What a directory's entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// Databases are somewhere below it.
    Directory,
    /// A replicated database.
    Database,
}

/// Whether a name may be shown as a file's.
pub fn is_safe_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

impl Client {
    /// All hosts that have databases here, sorted.
    ///
    /// # Errors
    /// A store that can't be listed; one whose bucket or root does not exist ([`ReplicaError::is_not_found`]).
    pub async fn hosts(&self) -> Result<Vec<String>, ReplicaError> {
        let (_, prefixes) = self.list_keys(MANIFESTS_PREFIX).await?;
        let found = futures::stream::iter(prefixes)
            .map(|prefix| async move {
                let host = match decode_segment(segment_of(&prefix)) {
                    Ok(Segment::Plain(host)) => String::from_utf8(host).ok(),
                    Ok(Segment::Hashed) => self.first_below(&prefix).await?.map(|(host, _)| host),
                    Err(_) => None,
                };
                Ok::<_, ReplicaError>((prefix, host))
            })
            .buffer_unordered(NAME_READS_MAX)
            .try_collect::<Vec<(String, Option<String>)>>()
            .await?;
        let (mut hosts, mut unfit) = (Vec::new(), Unfit::default());
        for (prefix, host) in found {
            match host.filter(|host| is_safe_name(host.as_bytes())) {
                Some(host) => hosts.push(host),
                None => unfit.add(&prefix),
            }
        }
        unfit.warn();
        hosts.sort_unstable();
        hosts.dedup();
        Ok(hosts)
    }

    /// What directory `dir` (absolute, `/` for the root) of `host` has, sorted. A directory that does not exist is
    /// empty: object stores know no others.
    ///
    /// # Errors
    /// As [`Client::hosts`].
    pub async fn list(&self, host: &str, dir: &[u8]) -> Result<Vec<DirEntry>, ReplicaError> {
        let names: Vec<&[u8]> = dir
            .split(|&b| b == b'/')
            .filter(|name| !name.is_empty())
            .collect();
        let mut prefix = host_prefix(host);
        for name in &names {
            prefix.push_str(&path_segment(name));
            prefix.push('/');
        }
        // Nothing that is deeper has a key of its own: a store that lists a folder in every folder comes to an end.
        let (mut keys, prefixes) = match prefix.len() {
            0..KEY_LEN_MAX_BYTES => self.list_keys(&prefix).await?,
            _ => Default::default(),
        };
        if !names.is_empty() {
            // Those that are too deep for a key stand at the top of the host; the listing of the root has them.
            keys.extend(self.list_keys(&deep_prefix(host)).await?.0);
        }
        let (mut entries, mut to_read) = (BTreeMap::new(), Vec::new());
        let mut unfit = Unfit::default();
        let below: Vec<(String, EntryKind)> = keys
            .into_iter()
            .filter_map(|key| {
                key.ends_with(DATABASE_MARK)
                    .then_some((key, EntryKind::Database))
            })
            .chain(prefixes.into_iter().map(|key| (key, EntryKind::Directory)))
            .collect();
        for (key, kind) in below {
            match decode_segment(segment_of(&key)) {
                Ok(Segment::Plain(name)) if is_safe_name(&name) => {
                    entries.insert(DirEntry { name, kind }, ());
                }
                Ok(Segment::Hashed) => to_read.push((key, kind)),
                _ => unfit.add(&key),
            }
        }
        unfit.warn();
        let paths: Vec<Option<(String, Vec<u8>)>> = futures::stream::iter(to_read)
            .map(|(key, kind)| async move {
                match kind {
                    EntryKind::Database => self.hashed_name(&key).await,
                    EntryKind::Directory => self.first_below(&key).await,
                }
            })
            .buffer_unordered(NAME_READS_MAX)
            .try_collect()
            .await?;
        for (_, path) in paths
            .into_iter()
            .flatten()
            .filter(|(owner, _)| owner == host)
        {
            if let Some(entry) = entry_of(&path, &names) {
                entries.insert(entry, ());
            }
        }
        Ok(entries.into_keys().collect())
    }

    /// Host and path of some database whose key starts with `prefix`, from the first store that answers.
    async fn first_below(&self, prefix: &str) -> Result<Option<(String, Vec<u8>)>, ReplicaError> {
        let mut failure = None;
        for store in &self.inner.source.stores {
            match self.first_in(store, prefix).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or(ReplicaError::NoStore))
    }

    async fn first_in(
        &self,
        store: &Store,
        prefix: &str,
    ) -> Result<Option<(String, Vec<u8>)>, ReplicaError> {
        let mut continuation = None;
        for _ in 0..FIRST_BELOW_PAGES_MAX {
            let page = store
                .list_at_most(
                    Space::Manifests,
                    prefix,
                    false,
                    continuation,
                    FIRST_BELOW_PAGE_LEN,
                )
                .await?;
            for listed in page
                .objects
                .iter()
                .filter(|listed| listed.key.ends_with(DATABASE_MARK))
            {
                let found = match invert_manifest_key(&listed.key) {
                    Some(found) => Some(found),
                    None => self.hashed_name(&listed.key).await?,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
            match page.next {
                Some(next) => continuation = Some(next),
                None => return Ok(None),
            }
        }
        tracing::warn!(
            store = store.describe(),
            prefix,
            "not listed: no name is found among the first keys"
        );
        Ok(None)
    }

    /// Host and path of a database whose key does not tell. A manifest that is no good has no name.
    async fn hashed_name(&self, key: &str) -> Result<Option<(String, Vec<u8>)>, ReplicaError> {
        if let Some(known) = self.inner.hashed_names.get(key) {
            return Ok(Some(known));
        }
        let manifest = match self.load(key, None).await {
            Ok(crate::Loaded::New(snapshot)) => snapshot,
            Ok(_) => return Ok(None),
            Err(error @ (ReplicaError::Manifest { .. } | ReplicaError::Misplaced { .. })) => {
                tracing::warn!(key, %error, "not listed");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let identity = manifest.manifest().identity();
        let name = (identity.host.clone(), identity.path.clone());
        self.inner.hashed_names.insert(key.to_owned(), name.clone());
        Ok(Some(name))
    }

    /// Keys and prefixes of one level, from the first store that answers.
    async fn list_keys(&self, prefix: &str) -> Result<(Vec<String>, Vec<String>), ReplicaError> {
        let mut failure = None;
        for store in &self.inner.source.stores {
            match list_all(store, prefix).await {
                Ok(listed) => return Ok(listed),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or(ReplicaError::NoStore))
    }
}

async fn list_all(store: &Store, prefix: &str) -> Result<(Vec<String>, Vec<String>), ReplicaError> {
    let (mut keys, mut prefixes, mut continuation) = (Vec::new(), Vec::new(), None);
    let (mut held_bytes, mut unfit) = (0, Unfit::default());
    loop {
        let page = store
            .list(Space::Manifests, prefix, true, continuation)
            .await?;
        let names = page.objects.iter().map(|listed| &listed.key);
        held_bytes += names
            .chain(&page.prefixes)
            .map(|key| key.len() + KEY_OVERHEAD_BYTES)
            .sum::<usize>()
            + PAGE_OVERHEAD_BYTES;
        if held_bytes > LISTING_MAX_BYTES {
            return Err(ReplicaError::EndlessListing {
                prefix: prefix.to_owned(),
                store: store.describe(),
                len: keys.len() + prefixes.len(),
            });
        }
        // What is elsewhere, or further below, was not asked for.
        let mut is_below = |key: &String| {
            let rest = key.strip_prefix(prefix);
            let is_below =
                rest.is_some_and(|rest| !rest.strip_suffix('/').unwrap_or(rest).contains('/'));
            if !is_below {
                unfit.add(key);
            }
            is_below
        };
        let names = page.objects.into_iter().map(|listed| listed.key);
        keys.extend(names.filter(&mut is_below));
        prefixes.extend(page.prefixes.into_iter().filter(&mut is_below));
        match page.next {
            Some(next) => continuation = Some(next),
            None => {
                unfit.warn();
                return Ok((keys, prefixes));
            }
        }
    }
}

/// The last segment of a key or prefix, without the mark or slash that ends it.
fn segment_of(key: &str) -> &str {
    let key = key.strip_suffix([DATABASE_MARK, '/']).unwrap_or(key);
    key.rsplit('/').next().unwrap_or(key)
}

/// How the database at `path` shows in the directory with these names: itself, or the directory that leads to it.
fn entry_of(path: &[u8], dir: &[&[u8]]) -> Option<DirEntry> {
    let mut names = path.strip_prefix(b"/")?.split(|&b| b == b'/');
    for expected in dir {
        if names.next()? != *expected {
            return None;
        }
    }
    let name = names.next()?.to_vec();
    let kind = match names.next() {
        None => EntryKind::Database,
        Some(_) => EntryKind::Directory,
    };
    is_safe_name(&name).then_some(DirEntry { name, kind })
}

/// Keys that are left out of a listing: one warning is enough for all of them, for a store may have any number.
#[derive(Default)]
struct Unfit {
    first: Option<String>,
    count: usize,
}

impl Unfit {
    fn add(&mut self, key: &str) {
        self.count += 1;
        let begin = || key.chars().take(KEY_LEN_MAX_BYTES).collect();
        self.first.get_or_insert_with(begin);
    }

    fn warn(self) {
        if let Some(key) = self.first {
            tracing::warn!(
                key,
                count = self.count,
                "not listed: names that cannot be a file's"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_mount_are_not_safe() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert!(!is_safe_name(bad), "{bad:?}");
        }
        for good in [&b"..."[..], b"a", b"\xff\xfe", b" ", b"-journal"] {
            assert!(is_safe_name(good), "{good:?}");
        }
    }

    #[test]
    fn a_deep_database_shows_in_every_directory_that_leads_to_it() {
        let path = b"/a/b/c";
        let entry = |name: &[u8], kind| {
            Some(DirEntry {
                name: name.to_vec(),
                kind,
            })
        };
        assert_eq!(entry_of(path, &[]), entry(b"a", EntryKind::Directory));
        assert_eq!(entry_of(path, &[b"a"]), entry(b"b", EntryKind::Directory));
        assert_eq!(
            entry_of(path, &[b"a", b"b"]),
            entry(b"c", EntryKind::Database)
        );
        assert_eq!(entry_of(path, &[b"a", b"b", b"c"]), None);
        assert_eq!(entry_of(path, &[b"b"]), None);
        assert_eq!(entry_of(b"/../x", &[]), None);
        assert_eq!(entry_of(b"relative", &[]), None);
    }
}
