//! The header bytes that a live file rewrites so that unmodified sqlite opens it and notices every change; `view` applies them.
//!
//! | bytes | meaning | served |
//! |---|---|---|
//! | 18, 19 | 2 = WAL mode, which can't be opened on a read-only mount | 1 instead of 2 |
//! | 24–27 | change counter; readers keep their pages while 24–39 stay the same | a number that this inode never served for other content |
//! | 92–95 | change counter for which bytes 28–31 (size in pages) hold | equal to 24–27 if it was, else unequal |
//!
//! The number is the file's own change counter as long as that grows (with every commit, in a plain rollback journal).
//! Where it does not (exclusive locking mode, WAL, a file replaced by an older one), it is one more than the largest
//! number that this inode has served. So the numbers of one inode only grow, each belongs to one content, and a reader
//! that slept through any number of snapshots still notices. Files that do not start with sqlite's magic are served as
//! they are.

/// Bytes that decide: the database header.
pub const HEADER_LEN_BYTES: usize = 100;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const WRITE_VERSION: usize = 18;
const READ_VERSION: usize = 19;
const CHANGE_COUNTER: usize = 24;
const VERSION_VALID_FOR: usize = 92;

/// The largest change counter that an inode has served.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct HeaderHistory {
    largest: Option<u32>,
}

/// What a view serves in place of the header bytes of its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderPatch {
    write_version: u8,
    read_version: u8,
    change_counter: u32,
    version_valid_for: u32,
}

impl HeaderHistory {
    /// The patch for content that this inode did not serve before, given its first [`HEADER_LEN_BYTES`]; `None` if it
    /// is no sqlite database.
    pub fn next(&mut self, header: &[u8]) -> Option<HeaderPatch> {
        if header.len() < HEADER_LEN_BYTES || !header.starts_with(MAGIC) {
            return None;
        }
        let own = u32_at(header, CHANGE_COUNTER)?;
        let valid_for = u32_at(header, VERSION_VALID_FOR)?;
        // Wraps after four billion snapshots of one inode; a reader would have to sleep through exactly as many.
        let served = match self.largest {
            Some(largest) if own <= largest => largest.wrapping_add(1),
            _ => own,
        };
        self.largest = Some(served);
        let version = |at: usize| if header[at] == 2 { 1 } else { header[at] };
        Some(HeaderPatch {
            write_version: version(WRITE_VERSION),
            read_version: version(READ_VERSION),
            change_counter: served,
            version_valid_for: if served == own {
                valid_for
            } else if valid_for == own {
                served
            } else {
                // The size in the header did not hold; it must not seem to.
                !served
            },
        })
    }
}

impl HeaderPatch {
    /// Rewrites what of the header lies in `bytes`, which start at `offset` of the file.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let mut put = |at: usize, value: &[u8]| {
            for (i, byte) in value.iter().enumerate() {
                let place = (at + i) as u64;
                if let Some(target) = place
                    .checked_sub(offset)
                    .and_then(|i| bytes.get_mut(usize::try_from(i).ok()?))
                {
                    *target = *byte;
                }
            }
        };
        if offset < HEADER_LEN_BYTES as u64 {
            put(WRITE_VERSION, &[self.write_version]);
            put(READ_VERSION, &[self.read_version]);
            put(CHANGE_COUNTER, &self.change_counter.to_be_bytes());
            put(VERSION_VALID_FOR, &self.version_valid_for.to_be_bytes());
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u8, counter: u32, valid_for: u32) -> Vec<u8> {
        let mut bytes = vec![0xEE; HEADER_LEN_BYTES];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[18..20].fill(version);
        bytes[24..28].copy_from_slice(&counter.to_be_bytes());
        bytes[92..96].copy_from_slice(&valid_for.to_be_bytes());
        bytes
    }

    fn served(history: &mut HeaderHistory, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        history.next(bytes).unwrap().apply(0, &mut out);
        out
    }

    #[test]
    fn a_growing_change_counter_is_served_as_it_is() {
        let mut history = HeaderHistory::default();
        for counter in [1, 2, 7, u32::MAX] {
            let bytes = header(1, counter, counter);
            assert_eq!(served(&mut history, &bytes), bytes);
        }
    }

    #[test]
    fn a_wal_header_is_served_as_rollback_with_a_number_that_changes() {
        let mut history = HeaderHistory::default();
        let wal = header(2, 5, 5);
        assert_eq!(served(&mut history, &wal), header(1, 5, 5));
        assert_eq!(served(&mut history, &wal), header(1, 6, 6));
        assert_eq!(served(&mut history, &wal), header(1, 7, 7));
    }

    #[test]
    fn a_counter_that_stays_or_falls_back_is_served_as_a_number_never_served_before() {
        let mut history = HeaderHistory::default();
        assert_eq!(served(&mut history, &header(1, 10, 10)), header(1, 10, 10));
        assert_eq!(served(&mut history, &header(1, 10, 10)), header(1, 11, 11));
        assert_eq!(
            served(&mut history, &header(1, 5, 5)),
            header(1, 12, 12),
            "replaced by an older file"
        );
        assert_eq!(
            served(&mut history, &header(1, 11, 11)),
            header(1, 13, 13),
            "11 was served for other content"
        );
        assert_eq!(served(&mut history, &header(1, 20, 20)), header(1, 20, 20));
    }

    #[test]
    fn a_size_that_did_not_hold_is_not_made_to_hold() {
        let mut history = HeaderHistory::default();
        served(&mut history, &header(1, 10, 3));
        let bytes = served(&mut history, &header(1, 10, 3));
        assert_eq!(u32_at(&bytes, 24), Some(11));
        assert_ne!(u32_at(&bytes, 92), Some(11));
    }

    #[test]
    fn what_is_no_database_is_left_alone() {
        let mut history = HeaderHistory::default();
        assert_eq!(history.next(b""), None);
        assert_eq!(history.next(&[0; 99]), None);
        assert_eq!(history.next(&[2; 100]), None);
    }

    #[test]
    fn any_piece_of_the_header_is_rewritten_like_the_whole() {
        let mut history = HeaderHistory::default();
        history.next(&header(2, 9, 9)).unwrap();
        let bytes = header(2, 9, 9);
        let patch = history.next(&bytes).unwrap();
        let mut whole = bytes.clone();
        patch.apply(0, &mut whole);
        for start in 0..bytes.len() {
            for end in start..bytes.len() {
                let mut piece = bytes[start..end].to_vec();
                patch.apply(start as u64, &mut piece);
                assert_eq!(piece, whole[start..end]);
            }
        }
    }
}
