//! Writing under EXCLUSIVE, commit and roll-back (writer step 4); `mod.rs` leads here, `end.rs` follows.

use super::Walk;
use crate::guards::Guard;
use crate::image::ABSENT;
use crate::state::{State, WriterAt as At};
use crate::steps::Steps;

impl Walk<'_> {
    pub(super) fn write_steps(&self, before: &State, out: &mut Steps) {
        let writer = before.writers[self.me];
        match writer.at {
            At::MarkPage => self.go(
                before,
                out,
                "step 4: dirty bit of the page",
                At::WritePage,
                |state| {
                    self.mark(state, writer.kind as usize);
                },
            ),
            At::WritePage => self.go(before, out, "writes the page", At::MarkHeader, |state| {
                self.write(state, writer.kind as usize);
            }),
            At::MarkHeader => {
                self.go(
                    before,
                    out,
                    "step 4: dirty bit of page 0",
                    At::WriteHeader,
                    |state| {
                        self.mark(state, 0);
                    },
                );
                self.may_roll_back(before, out);
            }
            At::WriteHeader => self.go(before, out, "writes page 0", At::Commit, |state| {
                self.write(state, 0);
                if self.lacks(Guard::LastCcAfterAppend) {
                    self.page(state).last_cc = state.file.counter;
                }
            }),
            At::Commit => {
                let is_exclusive = self.is_exclusive();
                let next = match writer.kind {
                    _ if is_exclusive && !self.lacks(Guard::ExclusiveEndsAtFinalise) => At::EndLook,
                    3 => At::MarkCut,
                    _ if is_exclusive => At::EndLook,
                    _ => At::Downgrade,
                };
                self.go(before, out, "COMMITS: the journal is gone", next, |state| {
                    state.journal = false;
                    state.commit();
                    self.writer(state).cut_left = writer.kind == 3;
                });
                self.may_roll_back(before, out);
            }
            At::MarkCut => self.go(
                before,
                out,
                "step 4: dirty bit of the cut",
                At::Cut,
                |state| {
                    self.mark(state, 2);
                },
            ),
            At::Cut => {
                let next = match self.is_exclusive() {
                    true if self.lacks(Guard::ExclusiveEndsAfterCut) => At::Idle,
                    true => At::EndLook,
                    false => At::Downgrade,
                };
                self.go(before, out, "cuts the file", next, |state| {
                    state.file.pages[2] = ABSENT;
                    state.touched(self.configuration.coarse_clock);
                    self.writer(state).cut_left = false;
                    if !self.lacks(Guard::RecordsCarryLength) {
                        self.writer(state).mine |= 4;
                    }
                });
            }
            At::RollBack => self.roll_back(before, out),
            _ => self.go(
                before,
                out,
                "roll-back: restores it",
                At::RollBack,
                |state| {
                    state.restore(writer.page, self.configuration.coarse_clock);
                    self.writer(state).mine |= if writer.page == 3 {
                        4
                    } else {
                        1 << writer.page
                    };
                },
            ),
        }
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.configuration.exclusive && self.me == 0
    }

    fn may_roll_back(&self, before: &State, out: &mut Steps) {
        if self.configuration.roll_back {
            self.go(before, out, "ROLLBACK", At::RollBack, |state| {
                self.writer(state).rolls_back = true;
            });
        }
    }

    fn roll_back(&self, before: &State, out: &mut Steps) {
        match before.next_to_restore() {
            Some(what) => self.go(before, out, "roll-back: dirty bit", At::Restore, |state| {
                self.mark(state, if what == 3 { 2 } else { what as usize });
                self.writer(state).page = what;
            }),
            None => {
                let is_silent = self.lacks(Guard::ExclusiveEndsAtFinalise);
                let next = match self.is_exclusive() {
                    true if is_silent => At::Idle,
                    true => At::EndLook,
                    false => At::Downgrade,
                };
                self.go(
                    before,
                    out,
                    "roll-back: the journal is gone",
                    next,
                    |state| {
                        state.journal = false;
                        if next == At::Idle {
                            self.writer(state).keeps = true;
                        }
                    },
                );
            }
        }
        if before.budget.io_error > 0 && !self.is_exclusive() {
            let logs = self.lacks(Guard::HotJournalNotLogged);
            let next = if logs { At::EndLook } else { At::Idle };
            let what = "roll-back fails: releases its locks, the journal is hot";
            self.go(before, out, what, next, |state| {
                state.budget.io_error -= 1;
                state.exclusive = 0;
                if logs {
                    state.shared |= 1 << self.me;
                }
            });
        }
    }
}
