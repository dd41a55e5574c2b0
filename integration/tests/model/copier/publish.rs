//! Copier steps 9 and 10: the last claim, the replay, the PUT, the records; `catchup.rs` and `copier.rs` lead here.

use super::{Walk, stop};
use crate::guards::Guard;
use crate::image::{Image, Overlay, chunks, set_length};
use crate::state::{Late, Record, State, TargetAt as At};
use crate::steps::Steps;

impl Walk<'_> {
    pub(super) fn publish(&self, before: &State, out: &mut Steps) {
        match self.seen(before).at {
            At::ClaimAgain => self.claim_again(before, out),
            At::Replay => self.take(before, out),
            At::QuietAgain => self.quiet_again(before, out),
            At::LookAtPage => {
                let is_lost = before.copiers[self.process].mapped != before.linked;
                if is_lost && !self.lacks(Guard::LookBeforePublish) {
                    self.go(
                        before,
                        out,
                        "step 10: not its control page, gives up",
                        At::Put,
                        |state| {
                            stop(state, self.process);
                        },
                    );
                } else {
                    self.go(
                        before,
                        out,
                        "step 10: looks at its control page",
                        At::Put,
                        |_| (),
                    );
                }
            }
            At::Put => self.put(before, out),
            At::Record | At::OtherRecord | At::InflightZero => self.records(before, out),
            _ => {}
        }
    }

    /// Copier step 9. Nobody may seal between this claim and the taking of the offers: what is to-do may be older than that seal.
    fn claim_again(&self, before: &State, out: &mut Steps) {
        if self.control(before).todo != 0 && !self.lacks(Guard::ClaimAfterSeal) {
            self.claim_first(before, out, At::Replay);
        } else if self.lacks(Guard::TakeWithClaim) {
            self.go(before, out, "step 9: nothing to claim", At::Replay, |_| ());
        } else {
            self.take(before, out);
        }
    }

    /// Copier step 10, first half: offers over base and slices.
    fn take(&self, before: &State, out: &mut Steps) {
        if !self.may_enter(before) {
            return;
        }
        let me = self.seen(before);
        if me.need != 0 && !self.lacks(Guard::NeedBeforePublish) {
            if me.reading != 0 && (!me.quiet || self.lacks(Guard::QuietNeverGoesOn)) {
                self.go(
                    before,
                    out,
                    "step 9: something is needed, goes on",
                    At::Decide,
                    |state| {
                        self.me(state).goes_on = true;
                    },
                );
                return;
            }
            self.go(
                before,
                out,
                "step 9: something is needed, back to 3",
                At::Decide,
                |state| {
                    self.begin_again(state);
                },
            );
            return;
        }
        let holds = self.lacks(Guard::TargetsApart);
        self.go(
            before,
            out,
            "step 10: takes the offers, replays",
            At::QuietAgain,
            |state| {
                let me = self.me(state);
                let mut image = me.base;
                let overrides = me.quiet && !holds_log_over_reads(self);
                if !overrides {
                    put_slices(me.reading, &me.slices, me.long, &mut image);
                }
                me.offers.put_over(&mut image);
                if overrides {
                    put_slices(me.reading, &me.slices, me.long, &mut image);
                }
                me.composed = image;
                me.publishing = me.reading | chunks(me.offers.pages);
                (me.reading, me.offers) = (0, Overlay::default());
                if holds {
                    self.enter(state);
                }
            },
        );
    }

    fn quiet_again(&self, before: &State, out: &mut Steps) {
        let is_lost =
            self.seen(before).quiet && (self.has_moved(before) || !self.is_quiet_now(before));
        if is_lost && !self.lacks(Guard::QuietCheckedAgain) {
            self.go(
                before,
                out,
                "step 9: quiet was lost, back to 3",
                At::Decide,
                |state| {
                    self.give_back(state);
                },
            );
        } else {
            self.go(before, out, "step 6: still quiet", At::LookAtPage, |_| ());
        }
    }

    fn give_back(&self, state: &mut State) {
        if self.lacks(Guard::TargetsApart) {
            self.leave(state);
        }
        self.begin_again(state);
    }

    fn put(&self, before: &State, out: &mut Steps) {
        let me = self.seen(before);
        let store = before.stores[self.target];
        let is_same = me.composed == me.base && store.is_there;
        if is_same && self.lacks(Guard::UnchangedIsPublished) {
            self.go(
                before,
                out,
                "step 10: nothing changed, no PUT",
                At::Record,
                |_| (),
            );
        } else if me.behind == 0 || self.lacks(Guard::PublishIsConditional) {
            self.go(before, out, "step 10: PUBLISHES", At::Record, |state| {
                state.store(self.target, me.composed, false);
                self.published(state, me.composed);
            });
        } else if store.image == me.composed
            || (me.behind == 1 && self.lacks(Guard::OwnAnswerWhole))
        {
            self.go(
                before,
                out,
                "step 10: refused, the manifest there is its own",
                At::Record,
                |state| {
                    self.published(state, me.composed);
                },
            );
        } else {
            self.go(
                before,
                out,
                "step 10: refused, builds upon what is there",
                At::Decide,
                |state| {
                    let me = self.me(state);
                    (me.base, me.behind) = (store.image, 0);
                    if self.lacks(Guard::OvertakenIsNeeded) {
                        me.publishing = 0;
                    }
                    self.give_back(state);
                },
            );
        }
        if before.budget.failed_put > 0 && self.may_fail() {
            self.go(before, out, "step 10: the PUT fails", At::Decide, |state| {
                state.budget.failed_put -= 1;
                self.fail(state);
            });
        }
        if before.budget.late_put > 0
            && self.may_fail()
            && me.behind == 0
            && !before.late[self.target].is_there
        {
            self.go(
                before,
                out,
                "step 10: the PUT is given up, and still under way",
                At::Decide,
                |state| {
                    state.budget.late_put -= 1;
                    state.late[self.target] = Late {
                        is_there: true,
                        image: me.composed,
                        ..Late::default()
                    };
                    self.fail(state);
                },
            );
        }
    }

    /// With two targets only B's store fails.
    fn may_fail(&self) -> bool {
        self.target + 1 == self.configuration.targets
    }

    fn fail(&self, state: &mut State) {
        if self.lacks(Guard::FailureIsNeeded) {
            self.me(state).publishing = 0;
        }
        self.give_back(state);
    }

    fn published(&self, state: &mut State, image: Image) {
        if self.lacks(Guard::InflightLast) {
            self.page(state).inflight = 0;
        }
        if self.lacks(Guard::TargetsApart) {
            self.leave(state);
        }
        let me = self.me(state);
        (me.base, me.behind) = (image, 0);
    }

    /// Copier step 10, second half, under the mutex.
    fn records(&self, before: &State, out: &mut Steps) {
        let me = self.seen(before);
        let copier = before.copiers[self.process];
        // A folder that is gone takes no record.
        let has_folder = before.linked != crate::state::NONE;
        match me.at {
            At::Record if self.may_enter(before) => {
                let next = if self.configuration.targets == 2 {
                    At::OtherRecord
                } else {
                    At::InflightZero
                };
                self.go(before, out, "step 10: writes its record", next, |state| {
                    self.enter(state);
                    let forgets = self.lacks(Guard::LastRecordsNeeds);
                    let settled = me.quiet && !me.epoch && self.control(state).odd;
                    let me = self.me(state);
                    me.publishing = 0;
                    let record = Record {
                        is_there: true,
                        lacks: if forgets { 0 } else { me.lacks() },
                        settled,
                        behind: me.behind,
                        page: copier.mapped,
                    };
                    if has_folder {
                        state.records[self.target] = record;
                    }
                });
            }
            At::Record => {}
            At::OtherRecord => {
                let other = 1 - self.target;
                let lacks = copier.targets[other].lacks();
                let record = before.records[other];
                let says_less =
                    record.is_there && record.page == copier.mapped && lacks & !record.lacks != 0;
                let is_due = has_folder && says_less && !self.lacks(Guard::OthersRecordsFirst);
                self.go(
                    before,
                    out,
                    "step 10: the other target's record",
                    At::InflightZero,
                    |state| {
                        if is_due {
                            state.records[other].lacks = lacks;
                        }
                    },
                );
            }
            _ => self.go(before, out, "step 10: inflight = 0", At::Decide, |state| {
                self.page(state).inflight = 0;
                self.leave(state);
            }),
        }
    }
}

fn holds_log_over_reads(walk: &Walk) -> bool {
    walk.lacks(Guard::QuietReadsOverride)
}

fn put_slices(reading: u8, slices: &Image, long: bool, image: &mut Image) {
    if reading & 1 != 0 {
        image.pages[..2].copy_from_slice(&slices.pages[..2]);
        (image.counter, image.size) = (slices.counter, slices.size);
    }
    if reading & 2 != 0 {
        image.pages[2] = slices.pages[2];
    }
    if reading != 0 {
        set_length(image, long);
    }
}
