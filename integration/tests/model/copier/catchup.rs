//! Copier steps 4 to 7: slices of the file, dirty bits, quiet mode; `copier.rs` begins a catch-up, `publish.rs` ends it.

use super::Walk;
use crate::guards::Guard;
use crate::image::{ALL, Image};
use crate::state::{State, TargetAt as At};
use crate::steps::Steps;

impl Walk<'_> {
    /// A kept EXCLUSIVE of a living connection between its transactions hides nothing.
    fn is_kept(&self, state: &State) -> bool {
        let control = self.control(state);
        let is_even = !control.odd || self.lacks(Guard::ExclusiveEvenEpoch);
        let is_ours = state.exclusive == 1 || state.exclusive == 2;
        !self.lacks(Guard::ExclusiveCounts) && is_ours && control.exclusive != 0 && is_even
    }

    /// No lock, no hot journal, as far as a slice asks.
    pub(super) fn is_open(&self, state: &State) -> bool {
        let is_unlocked =
            state.exclusive == 0 || self.is_kept(state) || self.lacks(Guard::SliceLock);
        is_unlocked && (!state.is_hot() || self.lacks(Guard::SliceHotJournal))
    }

    /// No lock, no hot journal, as quiet mode asks.
    pub(super) fn is_quiet_now(&self, state: &State) -> bool {
        (state.exclusive == 0 && !state.is_hot()) || self.lacks(Guard::QuietLock)
    }

    /// Something moved since before the first slice.
    pub(super) fn has_moved(&self, state: &State) -> bool {
        let me = self.seen(state);
        (me.epoch && !self.lacks(Guard::QuietEpoch)) || (me.mtime && !self.lacks(Guard::QuietMtime))
    }

    fn may_look(&self, state: &State) -> bool {
        self.is_open(state) && (!state.fresh || self.lacks(Guard::ClockTicked))
    }

    pub(super) fn catch_up(&self, before: &State, out: &mut Steps) {
        let me = self.seen(before);
        match me.at {
            At::Note => self.note(before, out),
            At::SliceBefore => self.slice_before(before, out),
            At::ReadFirst => {
                let (page, next) = if me.chunk == 0 {
                    (1, At::ReadHeader)
                } else {
                    (2, At::SliceAfter)
                };
                self.go(before, out, "step 4: reads page 1, or 2", next, |state| {
                    let read = state.file.pages[page];
                    self.me(state).slices.pages[page] = read;
                });
            }
            At::ReadHeader => self.go(
                before,
                out,
                "step 4: reads page 0",
                At::SliceAfter,
                |state| {
                    let file = state.file;
                    let slices = &mut self.me(state).slices;
                    slices.pages[0] = file.pages[0];
                    (slices.counter, slices.size) = (file.counter, file.size);
                },
            ),
            At::SliceAfter => self.slice_after(before, out),
            At::Bits => self.bits(before, out),
            _ => self.counter(before, out),
        }
    }

    /// The look before the first slice is one like those around each slice.
    fn note(&self, before: &State, out: &mut Steps) {
        if !self.may_look(before) {
            return;
        }
        self.go(
            before,
            out,
            "step 4: notes counter, epoch, time",
            At::SliceBefore,
            |state| {
                let counter = state.file.counter;
                let is_strange = counter != self.control(state).last_cc;
                let me = self.me(state);
                me.chunk = 0;
                let lacks_all = self.lacks(Guard::MoreCounterAtAll);
                let is_blind = me.goes_on && (self.lacks(Guard::MoreFindsStrangers) || lacks_all);
                me.quiet = is_strange && !is_blind && !self.lacks(Guard::StrangerMeansQuiet);
                if me.quiet {
                    (me.reading, me.more, me.goes_on) = (ALL, ALL, false);
                }
                if !me.goes_on || self.lacks(Guard::MoreCounterOfFirst) || lacks_all {
                    me.noted_counter = counter;
                }
                if !me.goes_on || self.lacks(Guard::MoreQuietSinceFirst) {
                    (me.epoch, me.mtime) = (false, false);
                }
                if !me.goes_on {
                    me.slices = Image::default();
                }
            },
        );
    }

    fn slice_before(&self, before: &State, out: &mut Steps) {
        let me = self.seen(before);
        if me.chunk >= 2 {
            let is_early = self.lacks(Guard::BitsBeforeSeal);
            let next = if is_early { At::SealStore } else { At::Bits };
            self.go(before, out, "all slices are read", next, |state| {
                let me = self.me(state);
                (me.chunk, me.back) = (0, At::Bits);
            });
        } else if me.more >> me.chunk & 1 == 0 {
            self.go(before, out, "skips a chunk", At::SliceBefore, |state| {
                self.me(state).chunk += 1
            });
        } else if self.may_look(before) {
            self.go(
                before,
                out,
                "step 4: looks before a slice",
                At::ReadFirst,
                |state| {
                    let file = state.file;
                    let me = self.me(state);
                    (me.slice_epoch, me.slice_mtime) = (false, false);
                    (me.slice_counter, me.slice_long) = (file.counter, file.is_long());
                },
            );
        }
    }

    fn slice_after(&self, before: &State, out: &mut Steps) {
        let me = self.seen(before);
        let is_good = self.is_open(before)
            && (!me.slice_epoch || self.lacks(Guard::SliceEpoch))
            && (!me.slice_mtime || self.lacks(Guard::SliceMtime))
            && (me.slice_counter == before.file.counter || self.lacks(Guard::SliceCounter))
            && (me.slice_long == before.file.is_long() || self.lacks(Guard::SliceLength));
        if is_good {
            self.go(
                before,
                out,
                "step 4: the slice counts",
                At::SliceBefore,
                |state| {
                    let me = self.me(state);
                    me.chunk += 1;
                    me.long = me.slice_long;
                },
            );
        } else {
            self.go(
                before,
                out,
                "step 4: the slice does not count",
                At::SliceBefore,
                |_| (),
            );
        }
    }

    /// Copier steps 5 and 6.
    fn bits(&self, before: &State, out: &mut Steps) {
        let (me, control) = (self.seen(before), self.control(before));
        let is_moved = self.has_moved(before);
        let is_still = !is_moved && self.is_quiet_now(before);
        let is_bit_set = control.dirty & me.more & (1 << me.chunk) != 0;
        if me.quiet {
            if is_moved {
                self.go(
                    before,
                    out,
                    "step 6: something moved, again",
                    At::Decide,
                    |state| {
                        self.begin_again(state);
                    },
                );
            } else if is_still {
                self.go(before, out, "step 6: quiet", At::Counter, |_| ());
            }
        } else if me.chunk >= 2
            || self.lacks(Guard::BitsSeenClear)
            || (me.goes_on && self.lacks(Guard::MoreBitsSeenClear))
        {
            self.go(
                before,
                out,
                "step 5: all bits were seen clear",
                At::Counter,
                |_| (),
            );
        } else if !is_bit_set {
            self.go(before, out, "step 5: sees a bit clear", At::Bits, |state| {
                self.me(state).chunk += 1
            });
        } else if self.lacks(Guard::QuietMode) {
            // Waits for a writer that may be dead.
        } else if is_still
            && control.dirty & !me.reading != 0
            && !self.lacks(Guard::QuietReadsAllDirty)
        {
            self.go(
                before,
                out,
                "step 6: more is dirty than was read",
                At::Decide,
                |state| {
                    self.me(state).need |= control.dirty;
                    self.begin_again(state);
                },
            );
        } else if is_still {
            self.go(
                before,
                out,
                "step 6: dirty, and nothing moves: quiet mode",
                At::Counter,
                |state| {
                    self.me(state).quiet = true;
                },
            );
        } else if (me.epoch || me.mtime) && self.is_quiet_now(before) && control.odd {
            self.go(
                before,
                out,
                "step 6: dirty, and something moved: again",
                At::Decide,
                |state| {
                    self.begin_again(state);
                },
            );
        }
    }

    /// Copier step 7.
    fn counter(&self, before: &State, out: &mut Steps) {
        let (me, control) = (self.seen(before), self.control(before));
        let counter = before.file.counter;
        let is_known = counter == me.noted_counter || counter == control.last_cc;
        if is_known || self.lacks(Guard::CounterAtEnd) {
            let next = if self.lacks(Guard::BitsBeforeSeal) {
                At::ClaimAgain
            } else {
                At::SealStore
            };
            self.go(
                before,
                out,
                "step 7: the counter is a known one",
                next,
                |state| {
                    self.me(state).back = At::ClaimAgain;
                },
            );
        } else if self.is_quiet_now(before) {
            self.go(
                before,
                out,
                "step 7: a stranger moved the counter: all, again",
                At::Decide,
                |state| {
                    self.me(state).need = ALL;
                    self.begin_again(state);
                },
            );
        }
    }
}
