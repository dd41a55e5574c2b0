//! Claims and seals, under the mutex (copier steps 2, 3 and 8); `mod.rs` and `publish.rs` lead here.

use super::Walk;
use crate::guards::Guard;
use crate::image::{ALL, Overlay, chunks};
use crate::state::{Bad, Control, State, TargetAt as At, WriterAt};
use crate::steps::Steps;

impl Walk<'_> {
    /// Copier step 2, first half; the mutex is kept until the second.
    pub(super) fn claim_first(&self, before: &State, out: &mut Steps, back: At) {
        if !self.may_enter(before) {
            return;
        }
        self.go(
            before,
            out,
            "step 2: claims, inflight |= todo",
            At::ClaimSecond,
            |state| {
                self.enter(state);
                let is_late = self.lacks(Guard::InflightBeforeTodoCleared);
                let todo = self.page(state).todo;
                if !is_late {
                    self.page(state).inflight |= todo;
                }
                let me = self.me(state);
                (me.claimed, me.back) = (todo, back);
            },
        );
    }

    pub(super) fn claim_second(&self, before: &State, out: &mut Steps) {
        let me = self.seen(before);
        self.go(
            before,
            out,
            "step 2: todo &= ~claimed, every target needs it",
            me.back,
            |state| {
                self.page(state).todo &= !me.claimed;
                let is_alone = self.lacks(Guard::ClaimForEveryTarget);
                for (index, target) in state.copiers[self.process].targets.iter_mut().enumerate() {
                    if index == self.target || !is_alone {
                        target.need |= me.claimed;
                    }
                }
                self.leave(state);
            },
        );
    }

    /// Copier step 3: the log is sealed first, offers become slices.
    pub(super) fn drain(&self, before: &State, out: &mut Steps) {
        let control = self.control(before);
        if !self.may_enter(before) {
            return;
        }
        let is_logged = !control.log.is_empty() || control.log_damaged;
        let is_early = self.seen(before).goes_on && self.lacks(Guard::MoreSealsFirst);
        if is_logged && !self.lacks(Guard::SealBeforeSlices) && !is_early {
            self.go(
                before,
                out,
                "step 3: there is a log to seal first",
                At::SealStore,
                |state| {
                    self.me(state).back = At::Note;
                },
            );
        } else {
            self.go(
                before,
                out,
                "step 3: reading = need and offers",
                At::Note,
                |state| {
                    self.begin_reading(state);
                },
            );
        }
    }

    fn begin_reading(&self, state: &mut State) {
        let goes_on = self.seen(state).goes_on;
        let keeps = self.lacks(Guard::OffersBecomeSlices)
            || (goes_on && self.lacks(Guard::MoreReadsOffers));
        let me = self.me(state);
        let is_forgotten = me.goes_on && self.lacks(Guard::MoreReadsDropped);
        me.more = me.need | if keeps { 0 } else { chunks(me.offers.pages) };
        if is_forgotten {
            me.more &= !me.reading;
        }
        me.reading |= me.more;
        me.need = 0;
        if !keeps {
            me.offers = Overlay::default();
        }
    }

    /// Copier step 8, under the mutex.
    pub(super) fn seal(&self, before: &State, out: &mut Steps) {
        let (me, control) = (self.seen(before), self.control(before));
        match me.at {
            At::SealStore if self.may_enter(before) => {
                self.go(
                    before,
                    out,
                    "step 8: stores sealed",
                    At::SealMove,
                    |state| {
                        self.enter(state);
                        let page = self.page(state);
                        page.sealed = chunks(page.log.pages);
                        page.moved_since_sealed = false;
                    },
                );
            }
            At::SealStore => {}
            At::SealMove if control.moved_since_sealed && !self.lacks(Guard::SealedIsExact) => {
                self.go(
                    before,
                    out,
                    "step 8: head has moved, again",
                    At::SealStore,
                    |_| (),
                );
            }
            At::SealMove => self.go(
                before,
                out,
                "step 8: moves head, SEALED",
                At::SealIndex,
                |state| {
                    let mapped = state.copiers[self.process].mapped;
                    let page = self.page(state);
                    (page.left, page.left_damaged) = (page.log, page.log_damaged);
                    (page.left_sealed, page.is_left) = (page.sealed, true);
                    (page.log, page.log_damaged) = (Overlay::default(), false);
                    if !self.lacks(Guard::ImagedAfterSwap) {
                        page.imaged = 0;
                    }
                    for writer in &mut state.writers {
                        if writer.mapped == mapped && writer.at != WriterAt::Idle {
                            (writer.head_moved, writer.sealed) = (true, true);
                        }
                    }
                },
            ),
            At::SealIndex => self.go(
                before,
                out,
                "step 8: inflight |= its chunks",
                At::SealDelete,
                |state| {
                    let is_all = control.left_damaged && !self.lacks(Guard::DamagedLogIsAll);
                    let sealed = if is_all {
                        ALL
                    } else {
                        chunks(control.left.pages)
                    };
                    if control.left.loose && !control.left_damaged {
                        state.bad = Bad::LooseRange;
                    }
                    if !self.lacks(Guard::SealedIsInflight) {
                        self.page(state).inflight |= sealed;
                    }
                    if is_all {
                        for target in &mut state.copiers[self.process].targets {
                            target.need = ALL;
                        }
                    }
                },
            ),
            _ => self.go(
                before,
                out,
                "step 8: deletes its name, offers it",
                me.back,
                |state| {
                    self.page(state).is_left = false;
                    self.offer(state, &control);
                    if me.back == At::Note {
                        self.begin_reading(state);
                    }
                    self.leave(state);
                },
            ),
        }
    }

    fn offer(&self, state: &mut State, control: &Control) {
        if control.left_damaged {
            return;
        }
        let is_alone = self.lacks(Guard::OfferedToEveryTarget);
        let is_bounded = self.configuration.offers_bound_zero;
        for (index, target) in state.copiers[self.process].targets.iter_mut().enumerate() {
            if index == self.target {
                target.offers.add(&control.left);
            } else if is_bounded {
                target.need |= chunks(control.left.pages | target.offers.pages);
                target.offers = Overlay::default();
            } else if !is_alone {
                target.offers.add(&control.left);
            }
        }
    }
}
