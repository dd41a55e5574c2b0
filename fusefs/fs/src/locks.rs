//! The table of byte-range locks of one inode, POSIX and OFD, kept by `live`.
//!
//! Files are open for reading only, so the kernel refuses write locks itself and every lock in the table is a read
//! lock: no two conflict. What matters is who holds what, and when it ends:
//!
//! | lock | owner | ends with |
//! |---|---|---|
//! | POSIX (`F_SETLK`) | the process | `F_UNLCK`, or FLUSH of any descriptor of the process |
//! | OFD (`F_OFD_SETLK`) | the open file | `F_UNLCK`, or RELEASE of that file (no FLUSH names its owner) |

use std::ops::RangeInclusive;

use nix::errno::Errno;

use crate::options::LOCKS_PER_INODE_MAX;

/// First byte of sqlite's SHARED range.
pub const SHARED_FIRST: u64 = 0x4000_0002;
/// Last byte of sqlite's SHARED range: 510 bytes in all.
pub const SHARED_LAST: u64 = SHARED_FIRST + 509;

/// What a lock request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// `F_RDLCK`
    Read,
    /// `F_WRLCK`
    Write,
    /// `F_UNLCK`
    Unlock,
}

/// One lock, unlock or test, as the kernel forwards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRequest {
    /// Process (POSIX) or open file (OFD), hashed by the kernel.
    pub owner: u64,
    /// Process that asks, for `F_GETLK` and logs.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte, included.
    pub end: u64,
    /// Read, write or unlock.
    pub kind: LockKind,
}

impl LockRequest {
    /// True if the request touches the range that sqlite locks for a read transaction.
    pub fn touches_shared(&self) -> bool {
        overlaps(&(self.start..=self.end), &(SHARED_FIRST..=SHARED_LAST))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    owner: u64,
    handle: u64,
    pid: u32,
    range: RangeInclusive<u64>,
}

/// Read locks held on one inode.
#[derive(Debug, Default)]
pub struct LockTable {
    held: Vec<Held>,
}

impl LockTable {
    /// Grants a read lock.
    ///
    /// # Errors
    /// `ENOLCK` if the table is full; nothing changed then.
    pub fn lock(&mut self, handle: u64, request: &LockRequest) -> Result<(), Errno> {
        if self.held.len() >= LOCKS_PER_INODE_MAX {
            return Err(Errno::ENOLCK);
        }
        self.unlock(request.owner, request.start, request.end);
        self.held.push(Held {
            owner: request.owner,
            handle,
            pid: request.pid,
            range: request.start..=request.end,
        });
        Ok(())
    }

    /// Takes `start..=end` out of what `owner` holds.
    pub fn unlock(&mut self, owner: u64, start: u64, end: u64) {
        let mut rest = Vec::new();
        self.held.retain(|held| {
            if held.owner != owner || !overlaps(&held.range, &(start..=end)) {
                return true;
            }
            if *held.range.start() < start {
                rest.push(Held {
                    range: *held.range.start()..=start - 1,
                    ..held.clone()
                });
            }
            if *held.range.end() > end {
                rest.push(Held {
                    range: end + 1..=*held.range.end(),
                    ..held.clone()
                });
            }
            false
        });
        self.held.append(&mut rest);
    }

    /// FLUSH: a process closed a descriptor, which ends all POSIX locks it has on the inode.
    pub fn flush(&mut self, owner: u64) {
        self.held.retain(|held| held.owner != owner);
    }

    /// RELEASE: an open file is gone, and with it OFD locks that were taken through it. POSIX locks taken through it
    /// have ended before: each process that had it open has flushed.
    pub fn release(&mut self, handle: u64) {
        self.held.retain(|held| held.handle != handle);
    }

    /// True if `owner` holds a lock that covers some of the SHARED range.
    pub fn shared_by(&self, owner: u64) -> bool {
        self.held
            .iter()
            .any(|held| held.owner == owner && overlaps(&held.range, &(SHARED_FIRST..=SHARED_LAST)))
    }

    /// True if anybody does: the inode must not advance.
    pub fn shared(&self) -> bool {
        self.held
            .iter()
            .any(|held| overlaps(&held.range, &(SHARED_FIRST..=SHARED_LAST)))
    }

    /// `F_GETLK`: the lock of somebody else that stands in the way, as a request of its holder.
    pub fn conflict(&self, request: &LockRequest) -> Option<LockRequest> {
        if request.kind != LockKind::Write {
            return None;
        }
        let wanted = request.start..=request.end;
        let held = self
            .held
            .iter()
            .find(|held| held.owner != request.owner && overlaps(&held.range, &wanted))?;
        Some(LockRequest {
            owner: held.owner,
            pid: held.pid,
            start: *held.range.start(),
            end: *held.range.end(),
            kind: LockKind::Read,
        })
    }
}

fn overlaps(a: &RangeInclusive<u64>, b: &RangeInclusive<u64>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(owner: u64, start: u64, end: u64) -> LockRequest {
        LockRequest {
            owner,
            pid: 7,
            start,
            end,
            kind: LockKind::Read,
        }
    }

    #[test]
    fn the_pending_byte_is_not_the_shared_range() {
        let mut table = LockTable::default();
        table
            .lock(1, &request(9, SHARED_FIRST - 2, SHARED_FIRST - 1))
            .unwrap();
        assert!(!table.shared());
        table
            .lock(1, &request(9, SHARED_FIRST, SHARED_LAST))
            .unwrap();
        assert!(table.shared() && table.shared_by(9) && !table.shared_by(8));
        table.unlock(9, 0, u64::MAX);
        assert!(!table.shared());
    }

    #[test]
    fn posix_locks_end_with_flush_and_ofd_locks_only_with_release() {
        let mut table = LockTable::default();
        table
            .lock(1, &request(100, SHARED_FIRST, SHARED_LAST))
            .unwrap(); // POSIX: the process owns it
        table
            .lock(2, &request(200, SHARED_FIRST, SHARED_LAST))
            .unwrap(); // OFD: the open file owns it
        table.flush(100);
        assert!(!table.shared_by(100));
        assert!(
            table.shared_by(200),
            "a flush of the process leaves the OFD lock"
        );
        table.release(1);
        assert!(table.shared_by(200));
        table.release(2);
        assert!(!table.shared());
    }

    #[test]
    fn getlk_reports_a_read_lock_of_another_owner_to_a_writer_only() {
        let mut table = LockTable::default();
        table.lock(1, &request(100, 10, 20)).unwrap();
        let write = |owner| LockRequest {
            owner,
            pid: 8,
            start: 20,
            end: 30,
            kind: LockKind::Write,
        };
        assert_eq!(table.conflict(&write(101)), Some(request(100, 10, 20)));
        assert_eq!(table.conflict(&write(100)), None);
        assert_eq!(table.conflict(&request(101, 10, 20)), None);
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has() {
        let mut table = LockTable::default();
        for i in 0..LOCKS_PER_INODE_MAX as u64 {
            table.held.push(Held {
                owner: i,
                handle: 0,
                pid: 0,
                range: 0..=0,
            });
        }
        assert_eq!(table.lock(0, &request(1, 0, 0)), Err(Errno::ENOLCK));
        assert_eq!(table.held.len(), LOCKS_PER_INODE_MAX);
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_byte_per_lock_model(
            steps in proptest::collection::vec((0u64..3, any::<bool>(), 0u64..24, 0u64..8), 1..40)
        ) {
            let mut table = LockTable::default();
            let mut model = [[false; 32]; 3];
            for (owner, lock, start, more) in steps {
                let request = request(owner, start, start + more);
                if lock {
                    table.lock(owner, &request).unwrap();
                } else {
                    table.unlock(owner, request.start, request.end);
                }
                for byte in request.start..=request.end {
                    model[owner as usize][byte as usize] = lock;
                }
                for (owner, bytes) in model.iter().enumerate() {
                    for (byte, expected) in bytes.iter().enumerate() {
                        let holders = table
                            .held
                            .iter()
                            .filter(|held| held.owner == owner as u64 && held.range.contains(&(byte as u64)))
                            .count();
                        prop_assert_eq!(holders, usize::from(*expected));
                    }
                }
            }
        }
    }
}
