//! The end of a transaction (writer steps 5 to 7): record, head, bits; `write.rs` leads here.

use super::{NAMES, Walk};
use crate::guards::Guard;
use crate::image::{Image, Overlay, chunks};
use crate::state::{Bad, State, WriterAt as At};
use crate::steps::Steps;

impl Walk<'_> {
    /// The end of a transaction: writer steps 5 to 7.
    pub(super) fn end(&self, before: &State, out: &mut Steps) {
        let writer = before.writers[self.me];
        let mine = chunks(writer.mine);
        match writer.at {
            At::Downgrade => {
                let is_early = self.lacks(Guard::DowngradeBeforeLog);
                self.go(before, out, "unlocks to SHARED", At::EndLook, |state| {
                    state.exclusive = 0;
                    if !is_early {
                        state.shared |= 1 << self.me;
                    }
                });
            }
            At::EndLook => {
                let mut next = *before;
                if self.find_page(
                    &mut next,
                    self.lacks(Guard::LookAtEnd) || self.lacks(Guard::LookAtAll),
                ) {
                    if self.lacks(Guard::BitBeforeWrite) {
                        self.page(&mut next).dirty |= mine;
                    }
                    let is_other = next.writers[self.me].mapped != writer.mapped;
                    let forgets = writer.rolls_back && self.lacks(Guard::RollBackLogs);
                    next.writers[self.me].at = match is_other {
                        true => At::Abandon,
                        false if writer.mine == 0 || forgets => At::LastCc,
                        false => At::LoadHead,
                    };
                    out.push(NAMES[self.me], "end: looks at the control page", next);
                }
            }
            At::LoadHead => self.load_head(before, out, mine),
            At::Swap => self.swap(before, out, mine),
            At::LastCc => self.go(
                before,
                out,
                "step 7: imaged, last_cc",
                At::ClearFirst,
                |state| {
                    let is_late = self.lacks(Guard::LastCcBeforeBitsClear);
                    let counter = state.file.counter;
                    let is_blind = self.lacks(Guard::ImagedOfItsGeneration);
                    if writer.postponed == 2 && (!writer.sealed || is_blind) {
                        self.page(state).imaged |= mine;
                    }
                    let is_transaction = writer.number != 0 || writer.rolls_back;
                    if !is_late && is_transaction {
                        self.page(state).last_cc = counter;
                    }
                },
            ),
            At::ClearFirst | At::ClearSecond => self.clear(before, out, mine),
            At::LateTodo => self.go(before, out, "to-do, too late", At::EpochEven, |state| {
                self.page(state).todo |= mine;
            }),
            At::LateLastCc => self.go(before, out, "last_cc, too late", At::EpochEven, |state| {
                self.page(state).last_cc = state.file.counter;
            }),
            At::EpochEven => {
                let next = match writer.cut_left {
                    true if self.lacks(Guard::ExclusiveEndsAfterCut) => At::Cut,
                    true => At::Adopt,
                    false => At::Idle,
                };
                self.go(
                    before,
                    out,
                    "step 7: epoch even, releases SHARED",
                    next,
                    |state| {
                        self.set_epoch(state, false);
                        if self.is_exclusive() {
                            self.page(state).exclusive = self.id();
                            self.writer(state).keeps = true;
                        }
                        state.shared &= !(1 << self.me);
                        let writer = self.writer(state);
                        (writer.mine, writer.adopted, writer.postponed) = (0, 0, 0);
                        (writer.head_moved, writer.sealed, writer.second_try) =
                            (false, false, false);
                    },
                );
            }
            At::Abandon => {
                let next = if writer.cut_left { At::Adopt } else { At::Idle };
                self.go(
                    before,
                    out,
                    "leaves all to the new page, releases SHARED",
                    next,
                    |state| {
                        state.shared &= !(1 << self.me);
                        let is_exclusive = self.is_exclusive();
                        let writer = self.writer(state);
                        writer.keeps = is_exclusive;
                        (writer.mine, writer.adopted) = (0, 0);
                    },
                );
            }
            _ => self.go(before, out, "releases EXCLUSIVE", At::Idle, |state| {
                state.exclusive = 0;
                self.writer(state).keeps = false;
            }),
        }
    }

    fn load_head(&self, before: &State, out: &mut Steps, mine: u8) {
        let is_alone = before.writers.iter().enumerate().all(|(other, writer)| {
            other == self.me || !matches!(writer.at, At::Swap | At::LoadHead)
        });
        self.go(
            before,
            out,
            "step 5: loads head, writes a record there",
            At::Swap,
            |state| {
                if !is_alone {
                    state.bad = Bad::TwoAppenders;
                }
                let writer = self.writer(state);
                (writer.head_moved, writer.sealed) = (false, false);
                if self.lacks(Guard::ImagedAfterSwap) {
                    let control = self.page(state);
                    let fresh = mine & !control.imaged;
                    control.imaged |= mine;
                    self.writer(state).page = fresh;
                }
                if self.lacks(Guard::BitsClearAfterLog) {
                    let adopted = self.writer(state).adopted;
                    self.page(state).dirty &= !(mine | adopted);
                }
            },
        );
        if before.budget.overflow > 0 {
            let is_late = self.lacks(Guard::TodoBeforeBitsClear);
            self.go(
                before,
                out,
                "step 6: too much to log, mine becomes to-do",
                At::LastCc,
                |state| {
                    state.budget.overflow -= 1;
                    if is_late {
                        self.writer(state).postponed = 1;
                    } else if !self.lacks(Guard::OverflowIsTodo) {
                        self.page(state).todo |= mine;
                    }
                },
            );
        }
    }

    fn swap(&self, before: &State, out: &mut Steps, mine: u8) {
        let writer = before.writers[self.me];
        if !writer.head_moved {
            self.go(before, out, "step 6: moves head", At::LastCc, |state| {
                let file = state.file;
                let is_early = self.lacks(Guard::ImagedAfterSwap);
                let control = self.page(state);
                let imaged = if is_early {
                    control.imaged & !writer.page
                } else {
                    control.imaged
                };
                let record = self.record(&file, writer.mine, imaged, &control.log);
                control.log.add(&record);
                control.moved_since_sealed = true;
                self.writer(state).postponed = 2;
            });
        } else if self.lacks(Guard::FailedSwapNoticed) {
            self.go(
                before,
                out,
                "does not look whether head moved",
                At::LastCc,
                |_| (),
            );
        } else if writer.second_try {
            let forgets = self.lacks(Guard::SecondFailureIsTodo);
            self.go(
                before,
                out,
                "step 6: sealed again, mine becomes to-do",
                At::LastCc,
                |state| {
                    if self.lacks(Guard::TodoBeforeBitsClear) {
                        self.writer(state).postponed = 1;
                    } else if !forgets {
                        self.page(state).todo |= mine;
                    }
                },
            );
        } else {
            self.go(
                before,
                out,
                "step 6: sealed meanwhile, once more",
                At::LoadHead,
                |state| {
                    self.writer(state).second_try = true;
                },
            );
        }
    }

    fn record(&self, file: &Image, written: u8, imaged: u8, log: &Overlay) -> Overlay {
        let mine = chunks(written);
        let ranges_only = self.lacks(Guard::FullImageFirst);
        let full = if ranges_only { 0 } else { mine & !imaged };
        let mut pages = written;
        for (chunk, all) in [(1, 3), (2, 4)] {
            if full & chunk != 0 {
                pages |= all;
            }
        }
        Overlay {
            pages,
            image: *file,
            long: file.is_long(),
            full,
            loose: mine & !full & !log.full != 0,
        }
    }

    fn clear(&self, before: &State, out: &mut Steps, mine: u8) {
        let writer = before.writers[self.me];
        let chunk = if writer.at == At::ClearFirst { 1 } else { 2 };
        let next = match writer.at {
            At::ClearFirst => At::ClearSecond,
            _ if writer.postponed == 1 => At::LateTodo,
            _ if self.lacks(Guard::LastCcBeforeBitsClear) => At::LateLastCc,
            _ => At::EpochEven,
        };
        self.go(before, out, "step 7: clears its dirty bit", next, |state| {
            self.page(state).dirty &= !(chunk & (mine | writer.adopted));
        });
    }
}
