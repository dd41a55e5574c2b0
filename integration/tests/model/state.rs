//! What the model's actors share, as small as the protocol allows; `writer.rs`, `foreign.rs` and `copier.rs` change it, `checker.rs` visits it.
//!
//! A database is three pages in two chunks; the file may end before the third. Every attempt at a transaction writes its own number, so that
//! two committed states never look alike. Counters that only need comparing (generation, epoch, modification time, ETag) are kept as "has
//! it moved since this actor looked", which is what lets equal situations meet.

use crate::image::{ABSENT, Image, Overlay, chunks};

/// No control page; or a change counter that no database has.
pub const NONE: u8 = 9;
/// Committed states that one run can make.
pub const HISTORY: usize = 6;

/// A control page and the log that belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Control {
    /// The log of `head`'s generation, up to `head`'s length.
    pub log: Overlay,
    pub log_damaged: bool,
    /// Chunks of the records up to the length in `sealed`.
    pub sealed: u8,
    /// `head` has moved since `sealed` was stored.
    pub moved_since_sealed: bool,
    /// A generation that was sealed, and whose name is still there; with what `sealed` says of it.
    pub left: Overlay,
    pub is_left: bool,
    pub left_damaged: bool,
    pub left_sealed: u8,
    pub dirty: u8,
    pub todo: u8,
    pub inflight: u8,
    /// Chunks whose `imaged_gen` is `head`'s generation.
    pub imaged: u8,
    /// The epoch is odd.
    pub odd: bool,
    pub last_cc: u8,
    /// The writer in `exclusive_pid`, 0 for none.
    pub exclusive: u8,
}

/// Where a writer of ours is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum WriterAt {
    #[default]
    Idle,
    Look,
    Adopt,
    CompareCounter,
    EpochOdd,
    MarkPage,
    WritePage,
    MarkHeader,
    WriteHeader,
    Commit,
    MarkCut,
    Cut,
    RollBack,
    Restore,
    Downgrade,
    EndLook,
    LoadHead,
    Swap,
    LastCc,
    ClearFirst,
    ClearSecond,
    LateTodo,
    LateLastCc,
    EpochEven,
    Abandon,
    Unlock,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Writer {
    pub at: WriterAt,
    /// The control page that it has mapped.
    pub mapped: u8,
    pub transactions: u8,
    pub number: u8,
    /// 1 or 2: writes that page and the header. 3: cuts the third page off.
    pub kind: u8,
    pub rolls_back: bool,
    /// Pages written, and chunks adopted from a dead writer.
    pub mine: u8,
    pub adopted: u8,
    /// `head` has moved since it was loaded; its generation was sealed since.
    pub head_moved: bool,
    pub sealed: bool,
    pub second_try: bool,
    /// Guards that are off postpone a store.
    pub postponed: u8,
    /// Keeps EXCLUSIVE between transactions.
    pub keeps: bool,
    /// The page that a roll-back restores.
    pub page: u8,
    /// The cut is still to come (exclusive mode: after the first end).
    pub cut_left: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum ForeignAt {
    #[default]
    Idle,
    WritePage,
    WriteHeader,
    Commit,
    Cut,
    Unlock,
    RollBack,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Foreign {
    pub at: ForeignAt,
    pub transactions: u8,
    pub number: u8,
    pub kind: u8,
}

/// Where one target's part of the copier is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum TargetAt {
    #[default]
    Load,
    Decide,
    ClaimSecond,
    Drain,
    SealStore,
    SealMove,
    SealIndex,
    SealDelete,
    Note,
    SliceBefore,
    ReadFirst,
    ReadHeader,
    SliceAfter,
    Bits,
    Counter,
    ClaimAgain,
    Replay,
    QuietAgain,
    LookAtPage,
    Put,
    Record,
    OtherRecord,
    InflightZero,
}

/// One target in the memory of a copier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Target {
    pub at: TargetAt,
    /// Where a seal or a claim returns to.
    pub back: TargetAt,
    pub base: Image,
    /// How many manifests the store is ahead of the base, at most 2: the base's ETag is the store's if 0.
    pub behind: u8,
    pub need: u8,
    pub reading: u8,
    /// What of `reading` this round of the catch-up reads; before the first round, and after the bits, nothing.
    pub more: u8,
    /// The catch-up goes on: the slices, the counter and the flags of its first look still count.
    pub goes_on: bool,
    pub publishing: u8,
    pub offers: Overlay,
    pub claimed: u8,
    /// The slices, and the length of the last one.
    pub slices: Image,
    pub long: bool,
    pub chunk: u8,
    pub noted_counter: u8,
    pub slice_counter: u8,
    pub slice_long: bool,
    pub quiet: bool,
    pub composed: Image,
    /// Moved since the look before the slice.
    pub slice_epoch: bool,
    pub slice_mtime: bool,
    /// Moved since before the first slice.
    pub epoch: bool,
    pub mtime: bool,
}

impl Target {
    /// What the record has to say that this target lacks.
    pub fn lacks(&self) -> u8 {
        self.need | self.reading | self.publishing | chunks(self.offers.pages)
    }
}

/// Where a copier process is as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum CopierAt {
    #[default]
    Off,
    Leftover,
    DeleteLeftover,
    Runs,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Copier {
    pub at: CopierAt,
    pub mapped: u8,
    /// The target that holds the mutex, from 1.
    pub mutex: u8,
    pub targets: [Target; 2],
}

/// A target's record in the spool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Record {
    pub is_there: bool,
    pub lacks: u8,
    /// `settled_epoch` is the epoch.
    pub settled: bool,
    /// How many manifests the store is ahead of the one named here, at most 2.
    pub behind: u8,
    /// The control page that it belongs to.
    pub page: u8,
}

/// What a target's store holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Store {
    pub is_there: bool,
    pub image: Image,
    /// Which committed state that is.
    pub state: u8,
}

/// A PUT that its sender has given up, and that may still take effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Late {
    pub is_there: bool,
    pub image: Image,
    pub behind: u8,
    /// What it holds was undone by a power failure.
    pub undone: bool,
}

/// How often each misfortune may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Budget {
    pub kill_writer: u8,
    pub kill_copier: u8,
    pub kill_foreign: u8,
    pub overflow: u8,
    pub io_error: u8,
    pub late_put: u8,
    pub failed_put: u8,
    pub lose_folder: u8,
    pub lose_log: u8,
    pub lose_record: u8,
    pub reboot: u8,
}

/// What must never be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Bad {
    #[default]
    Nothing,
    /// What was published is no committed state.
    Mixture,
    /// An older state was published after a newer one.
    Backwards,
    /// Two writers between loading `head` and moving it.
    TwoAppenders,
    /// A range was replayed in a generation that holds no full image of its chunk.
    LooseRange,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct State {
    pub file: Image,
    pub journal: bool,
    /// A write in this tick of the clock leaves the modification time as it is.
    pub fresh: bool,
    pub history: [Image; HISTORY],
    pub committed: u8,
    pub attempts: u8,
    /// Who holds PENDING or EXCLUSIVE: 1 and 2 are ours, 3 is foreign.
    pub exclusive: u8,
    /// Our writers that hold SHARED while they log.
    pub shared: u8,
    pub controls: [Control; 2],
    /// The control page that the folder holds.
    pub linked: u8,
    pub writers: [Writer; 2],
    pub foreign: Foreign,
    pub copiers: [Copier; 2],
    pub records: [Record; 2],
    pub stores: [Store; 2],
    pub late: [Late; 2],
    pub budget: Budget,
    pub bad: Bad,
}

impl State {
    pub fn last_commit(&self) -> Image {
        self.history[self.committed as usize - 1]
    }

    /// A journal without a lock that would say whose.
    pub fn is_hot(&self) -> bool {
        self.journal && self.exclusive == 0
    }

    /// A write reached the file.
    pub fn touched(&mut self, coarse_clock: bool) {
        if coarse_clock && self.fresh {
            return;
        }
        self.fresh = coarse_clock;
        for copier in &mut self.copiers {
            for target in &mut copier.targets {
                target.slice_mtime = true;
                target.mtime = true;
            }
        }
    }

    pub fn commit(&mut self) {
        let mut image = self.file;
        if image.size == 2 {
            image.pages[2] = ABSENT;
        }
        self.history[self.committed as usize] = image;
        self.committed += 1;
    }

    /// The next page or length that a roll-back has to restore: 3 stands for cutting the file.
    pub fn next_to_restore(&self) -> Option<u8> {
        let old = self.last_commit();
        if old.size == 2 && self.file.is_long() {
            return Some(3);
        }
        (0..old.size).rev().find(|&page| {
            self.file.pages[page as usize] != old.pages[page as usize]
                || (page == 0 && (self.file.counter, self.file.size) != (old.counter, old.size))
        })
    }

    pub fn restore(&mut self, what: u8, coarse_clock: bool) {
        let old = self.last_commit();
        if what == 3 {
            self.file.pages[2] = ABSENT;
        } else {
            self.file.pages[what as usize] = old.pages[what as usize];
        }
        if what == 0 {
            (self.file.counter, self.file.size) = (old.counter, old.size);
        }
        self.touched(coarse_clock);
    }

    /// A manifest takes effect in a target's store.
    pub fn store(&mut self, target: usize, image: Image, undone: bool) {
        let store = &mut self.stores[target];
        if !undone {
            let found = (0..self.committed).find(|&at| image.shows(&self.history[at as usize]));
            match found {
                None => self.bad = Bad::Mixture,
                Some(at) if store.is_there && at < store.state => self.bad = Bad::Backwards,
                Some(at) => store.state = at,
            }
        }
        store.is_there = true;
        store.image = image;
        let ahead = |behind: &mut u8| *behind = (*behind + 1).min(2);
        ahead(&mut self.records[target].behind);
        ahead(&mut self.late[target].behind);
        for copier in &mut self.copiers {
            ahead(&mut copier.targets[target].behind);
        }
    }
}
