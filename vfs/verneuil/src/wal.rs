//! The journal mode that a database's header names, as its connection reads and writes it; what `PRAGMA journal_mode=WAL` may do. Used by
//! `connection` and `pragma`.
//!
//! WAL mode is not replicated. docs/adr/0006-wal-is-refused.md says why a write may be refused.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Both version numbers of a header: 1 for a rollback journal, 2 for WAL.
const VERSIONS: std::ops::Range<usize> = 18..20;
const ROLLBACK: u8 = 1;
const WAL: u8 = 2;

/// Does the header in these bytes, which begin at `offset` of the file, say WAL? None if they don't tell.
pub(crate) fn says_wal(bytes: &[u8], offset: u64) -> Option<bool> {
    if offset != 0 {
        return None;
    }
    match bytes.get(VERSIONS)? {
        [0..=ROLLBACK, 0..=ROLLBACK] => Some(false),
        versions => Some(versions.contains(&WAL)),
    }
}

/// Is the argument of a `PRAGMA journal_mode` one that SQLite takes for WAL? It takes any beginning of a mode's name.
pub(crate) fn means_wal(argument: &[u8]) -> bool {
    !argument.is_empty()
        && b"wal"
            .get(..argument.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(argument))
}

/// Is this write of page 1 the one with which SQLite switches a database to WAL mode: the same page but for the version numbers and
/// the counters, or the first page of an empty database? (A backup or a restore of a database in WAL mode writes another page.)
pub(crate) fn is_switch(file: &File, page: &[u8]) -> bool {
    /// Version numbers, change counter, and the two numbers that follow each commit.
    const MAY_DIFFER: [std::ops::Range<usize>; 3] = [VERSIONS, 24..28, 92..100];
    /// Of a leaf of the schema without rows: its type, and the number of its cells.
    const EMPTY_SCHEMA: (u8, [u8; 2]) = (0x0d, [0, 0]);

    let mut old = vec![0; page.len()];
    if file.read_exact_at(&mut old, 0).is_err() {
        return page.get(100) == Some(&EMPTY_SCHEMA.0)
            && page.get(103..105) == Some(&EMPTY_SCHEMA.1);
    }
    let mut new = page.to_vec();
    for range in MAY_DIFFER {
        for bytes in [&mut old, &mut new] {
            if let Some(part) = bytes.get_mut(range.clone()) {
                part.fill(0);
            }
        }
    }
    old == new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beginning_of_the_word_means_wal_and_nothing_else_does() {
        for argument in ["w", "W", "wa", "wal", "WAL", "wAl"] {
            assert!(means_wal(argument.as_bytes()), "{argument}");
        }
        for argument in ["", "wall", "delete", "al", "?al", "1"] {
            assert!(!means_wal(argument.as_bytes()), "{argument}");
        }
    }

    #[test]
    fn only_a_header_tells_the_mode() {
        let mut page = vec![0; 512];
        assert_eq!(says_wal(&page, 0), Some(false));
        page[18..20].fill(2);
        assert_eq!(says_wal(&page, 0), Some(true));
        assert_eq!(says_wal(&page, 512), None);
        assert_eq!(says_wal(&page[..19], 0), None);
    }
}
