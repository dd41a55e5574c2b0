//! What xShmMap, xShmLock and xFetch speak of: memory that SQLite is lent, and the lock slots of WAL mode; used by
//! [`crate::File`] and `file_callbacks`.

use crate::sys::consts as c;
use std::ffi::c_int;
use std::ptr::NonNull;

/// Memory that SQLite reads (and, for shared memory that is not read-only, writes) until it gives it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped(NonNull<u8>);

impl Mapped {
    /// # Safety
    /// As many bytes as SQLite asked for stay mapped from `start` on, at this address, until it gives them back: a region of
    /// shared memory with xShmUnmap, a page with xUnfetch; at the latest, the file is closed. Those of a region can be
    /// written if the answer doesn't say that it is read-only.
    #[must_use]
    pub const unsafe fn new(start: NonNull<u8>) -> Mapped {
        Mapped(start)
    }

    /// Where it starts.
    #[must_use]
    pub const fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr()
    }
}

/// The answer to xShmMap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShmRegion {
    /// The region; none if it does not exist and was not to be made.
    pub memory: Option<Mapped>,
    /// It can only be read: SQLite is told with `SQLITE_READONLY`.
    pub is_read_only: bool,
}

/// Some neighbouring lock slots of the shared memory, one at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShmSlots {
    first: u8,
    count: u8,
}

impl ShmSlots {
    /// How many slots there are: WRITE, CKPT, RECOVER and five READ marks.
    pub const COUNT: u8 = 8;
    /// Slot 0: who holds it appends to the log.
    pub const WRITE: u8 = 0;

    /// `count` slots from `first` on; none if there are no such slots.
    #[must_use]
    pub fn new(first: c_int, count: c_int) -> Option<ShmSlots> {
        let first = u8::try_from(first).ok()?;
        let count = u8::try_from(count).ok().filter(|count| *count > 0)?;
        (first.checked_add(count)? <= Self::COUNT).then_some(ShmSlots { first, count })
    }

    /// The first one's number.
    #[must_use]
    pub const fn first(self) -> u8 {
        self.first
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> u8 {
        self.count
    }

    /// A bit for each of them.
    #[must_use]
    pub const fn mask(self) -> u16 {
        ((1 << self.count) - 1) << self.first
    }

    /// Is that slot one of them?
    #[must_use]
    pub const fn contains(self, slot: u8) -> bool {
        slot >= self.first && slot - self.first < self.count
    }
}

/// What xShmLock does to slots. SQLite never turns one kind of lock into the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShmLock {
    /// Takes a lock that others may share; of one slot.
    Share,
    /// Takes locks that nobody may share.
    Exclude,
    /// Releases what [`ShmLock::Share`] took.
    Unshare,
    /// Releases what [`ShmLock::Exclude`] took.
    Unexclude,
}

impl ShmLock {
    pub(crate) const fn from_raw(flags: c_int) -> Option<ShmLock> {
        const LOCK_SHARED: c_int = c::SQLITE_SHM_LOCK | c::SQLITE_SHM_SHARED;
        const LOCK_EXCLUSIVE: c_int = c::SQLITE_SHM_LOCK | c::SQLITE_SHM_EXCLUSIVE;
        const UNLOCK_SHARED: c_int = c::SQLITE_SHM_UNLOCK | c::SQLITE_SHM_SHARED;
        const UNLOCK_EXCLUSIVE: c_int = c::SQLITE_SHM_UNLOCK | c::SQLITE_SHM_EXCLUSIVE;
        match flags {
            LOCK_SHARED => Some(ShmLock::Share),
            LOCK_EXCLUSIVE => Some(ShmLock::Exclude),
            UNLOCK_SHARED => Some(ShmLock::Unshare),
            UNLOCK_EXCLUSIVE => Some(ShmLock::Unexclude),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slots_that_exist_can_be_named() {
        for (first, count) in [
            (-1, 1),
            (0, 0),
            (0, -1),
            (0, 9),
            (8, 1),
            (7, 2),
            (255, 1),
            (1, 255),
        ] {
            assert_eq!(ShmSlots::new(first, count), None, "{first} {count}");
        }
        let slots = ShmSlots::new(3, 5);
        assert_eq!(slots.map(ShmSlots::mask), Some(0b1111_1000));
        assert_eq!(ShmSlots::new(0, 8).map(ShmSlots::mask), Some(0xff));
        assert!(slots.is_some_and(|slots| slots.contains(7) && !slots.contains(2)));
    }
}
