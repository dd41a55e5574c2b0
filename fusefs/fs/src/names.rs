//! Which names of the store the mount shows: untrusted names are filtered, sqlite's sidecars hidden; used by `tree`.

use std::collections::BTreeMap;

use crate::source::{Entry, EntryKind};

/// Longest name that Linux accepts.
const NAME_MAX_BYTES: usize = 255;

/// Names that sqlite takes for its own beside a database.
const SIDECAR_SUFFIXES: [&[u8]; 3] = [b"-journal", b"-wal", b"-shm"];

/// True if `name` can stand for one entry of a directory, and for nothing outside of it.
pub fn is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// The database whose sidecar `name` would be.
pub fn sidecar_of(name: &[u8]) -> Option<&[u8]> {
    SIDECAR_SUFFIXES
        .iter()
        .find_map(|suffix| name.strip_suffix(*suffix))
        .filter(|base| !base.is_empty())
}

/// The visible entries of a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    entries: BTreeMap<Vec<u8>, EntryKind>,
}

impl Listing {
    /// Filters what the store says. Where a database and a directory have one name, the database is shown: a path
    /// that once led to one now leads to the other, and the directory's content is still listed by its host.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut all = BTreeMap::new();
        for Entry { name, kind } in entries {
            if is_valid(&name) && (kind == EntryKind::Database || !all.contains_key(&name)) {
                all.insert(name, kind);
            }
        }
        let hidden: Vec<Vec<u8>> = all
            .keys()
            .filter(|name| {
                sidecar_of(name).is_some_and(|base| all.get(base) == Some(&EntryKind::Database))
            })
            .cloned()
            .collect();
        for name in hidden {
            all.remove(&name);
        }
        Self { entries: all }
    }

    /// What `name` leads to.
    pub fn get(&self, name: &[u8]) -> Option<EntryKind> {
        self.entries.get(name).copied()
    }

    /// All entries in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], EntryKind)> {
        self.entries
            .iter()
            .map(|(name, kind)| (name.as_slice(), *kind))
    }

    /// Names that lead elsewhere in `newer`, or appear or vanish there.
    pub fn changed_names(&self, newer: &Self) -> Vec<Vec<u8>> {
        let gone_or_other = self
            .entries
            .iter()
            .filter(|(name, kind)| newer.entries.get(*name) != Some(kind));
        let new = newer
            .entries
            .iter()
            .filter(|(name, _)| !self.entries.contains_key(*name));
        gone_or_other
            .chain(new)
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// The path of an entry; `dir` is absolute.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: EntryKind) -> Entry {
        Entry {
            name: name.into(),
            kind,
        }
    }

    fn names(listing: &Listing) -> Vec<String> {
        listing
            .iter()
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    #[test]
    fn names_that_could_leave_the_directory_are_not_shown() {
        let long = "x".repeat(256);
        let bad = ["", ".", "..", "a/b", "/", "../../etc", "nul\0", &long];
        let listing = Listing::new(bad.iter().map(|name| entry(name, EntryKind::Database)));
        assert_eq!(listing, Listing::default());
        assert!(
            is_valid(b"...") && is_valid(b"a b") && is_valid(&[0xFF]) && is_valid(&[b'x'; 255])
        );
    }

    #[test]
    fn sidecars_are_hidden_beside_a_database_only() {
        let listing = Listing::new([
            entry("a.db", EntryKind::Database),
            entry("a.db-journal", EntryKind::Database),
            entry("a.db-wal", EntryKind::Database),
            entry("a.db-shm", EntryKind::Directory),
            entry("b-wal", EntryKind::Database),
            entry("dir", EntryKind::Directory),
            entry("dir-journal", EntryKind::Database),
            entry("-journal", EntryKind::Database),
        ]);
        assert_eq!(
            names(&listing),
            ["-journal", "a.db", "b-wal", "dir", "dir-journal"]
        );
    }

    #[test]
    fn a_database_wins_over_a_directory_of_its_name() {
        for order in [
            [EntryKind::Database, EntryKind::Directory],
            [EntryKind::Directory, EntryKind::Database],
        ] {
            assert_eq!(
                Listing::new(order.map(|kind| entry("x", kind))).get(b"x"),
                Some(EntryKind::Database)
            );
        }
    }

    #[test]
    fn changed_names_are_what_appeared_vanished_or_leads_elsewhere() {
        let old = Listing::new([
            entry("gone", EntryKind::Database),
            entry("kept", EntryKind::Database),
            entry("other", EntryKind::Directory),
        ]);
        let new = Listing::new([
            entry("kept", EntryKind::Database),
            entry("new", EntryKind::Database),
            entry("other", EntryKind::Database),
        ]);
        assert_eq!(
            old.changed_names(&new),
            [b"gone".to_vec(), b"other".to_vec(), b"new".to_vec()]
        );
    }

    #[test]
    fn paths_are_joined_with_one_slash() {
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
    }
}
