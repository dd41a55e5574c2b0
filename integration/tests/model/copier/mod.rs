//! The copier, step for step as in docs/PROTOCOL.md: start and idle; `seal.rs` claims and seals, `catchup.rs` reads slices, `publish.rs` publishes. `checker.rs` calls it.

mod catchup;
mod publish;
mod seal;

use crate::configurations::Configuration;
use crate::guards::Guard;
use crate::image::ALL;
use crate::state::{Control, Copier, CopierAt, NONE, State, Target, TargetAt as At};
use crate::steps::Steps;
use crate::writer::link_new_page;

/// Names by process and target.
const NAMES: [[&str; 2]; 2] = [
    ["copier, target A", "copier, target B"],
    ["other copier, target A", "other copier, target B"],
];
const PROCESSES: [&str; 2] = ["copier", "other copier"];

/// All steps that copier process `process` can take, being killed included.
pub fn steps(before: &State, process: usize, configuration: &Configuration, out: &mut Steps) {
    let copier = before.copiers[process];
    process_steps(before, process, configuration, out);
    if copier.at == CopierAt::Runs {
        for target in 0..configuration.targets {
            target_steps(before, process, target, configuration, out);
        }
    }
    if copier.at != CopierAt::Off && before.budget.kill_copier > 0 {
        let mut next = *before;
        next.budget.kill_copier -= 1;
        stop(&mut next, process);
        out.push(PROCESSES[process], "is killed", next);
    }
}

/// The process ends; its memory and its lock are gone.
pub fn stop(state: &mut State, process: usize) {
    state.copiers[process] = Copier {
        mapped: NONE,
        ..Copier::default()
    };
}

/// Start, and what a dead copier left (copier step 1).
pub fn process_steps(
    before: &State,
    process: usize,
    configuration: &Configuration,
    out: &mut Steps,
) {
    let lacks = |guard| configuration.off.lacks(guard);
    let copier = before.copiers[process];
    let name = PROCESSES[process];
    let mut next = *before;
    match copier.at {
        CopierAt::Off => {
            let other = &before.copiers[1 - process];
            let is_locked = other.at != CopierAt::Off && other.mapped == before.linked;
            let is_turn = process == 0 || other.at != CopierAt::Off;
            if is_locked || !is_turn {
                return;
            }
            if next.linked == NONE && !link_new_page(&mut next, configuration) {
                return;
            }
            let mapped = next.linked;
            let control = next.controls[mapped as usize];
            let records = next.records;
            let copier = &mut next.copiers[process];
            copier.mapped = mapped;
            for (target, record) in copier.targets.iter_mut().zip(records) {
                let is_ours = record.page == mapped || lacks(Guard::RecordOfItsPage);
                let is_missing = !record.is_there || !is_ours;
                let is_all = is_missing && !lacks(Guard::StartWithoutRecordIsAll);
                target.need = if is_all { ALL } else { record.lacks };
                if !lacks(Guard::StartTakesInflight) {
                    target.need |= control.inflight;
                }
            }
            copier.at = if control.is_left {
                CopierAt::Leftover
            } else {
                CopierAt::Runs
            };
            out.push(name, "step 1: starts, reads the records", next);
        }
        CopierAt::Leftover => {
            let control = &mut next.controls[copier.mapped as usize];
            let left = if control.left_damaged {
                ALL
            } else {
                control.left_sealed
            };
            if !lacks(Guard::LeftoverIsInflight) {
                control.inflight |= left;
            }
            let records = control.left;
            for target in &mut next.copiers[process].targets {
                if lacks(Guard::LeftoverNotReplayed) {
                    target.offers.add(&records);
                } else if !lacks(Guard::LeftoverIsNeeded) {
                    target.need |= left;
                }
            }
            next.copiers[process].at = CopierAt::DeleteLeftover;
            out.push(name, "step 1: a generation is left over", next);
        }
        CopierAt::DeleteLeftover => {
            next.controls[copier.mapped as usize].is_left = false;
            next.copiers[process].at = CopierAt::Runs;
            out.push(name, "step 1: deletes it", next);
        }
        CopierAt::Runs => {}
    }
}

/// What one target's part of the copier does next.
pub fn target_steps(
    before: &State,
    process: usize,
    target: usize,
    configuration: &Configuration,
    out: &mut Steps,
) {
    Walk {
        process,
        target,
        configuration,
    }
    .step(before, out);
}

struct Walk<'a> {
    pub process: usize,
    pub target: usize,
    pub configuration: &'a Configuration,
}

impl Walk<'_> {
    pub fn lacks(&self, guard: Guard) -> bool {
        self.configuration.off.lacks(guard)
    }

    /// Takes one step to `at`; `change` is its effect.
    pub fn go(
        &self,
        before: &State,
        out: &mut Steps,
        what: &'static str,
        at: At,
        change: impl FnOnce(&mut State),
    ) {
        let mut next = *before;
        self.me(&mut next).at = at;
        change(&mut next);
        out.push(NAMES[self.process][self.target], what, next);
    }

    pub fn me<'s>(&self, state: &'s mut State) -> &'s mut Target {
        &mut state.copiers[self.process].targets[self.target]
    }

    pub fn seen(&self, state: &State) -> Target {
        state.copiers[self.process].targets[self.target]
    }

    pub fn page<'s>(&self, state: &'s mut State) -> &'s mut Control {
        &mut state.controls[state.copiers[self.process].mapped as usize]
    }

    pub fn control(&self, state: &State) -> Control {
        state.controls[state.copiers[self.process].mapped as usize]
    }

    /// Whether the mutex is free or this target's.
    pub fn may_enter(&self, state: &State) -> bool {
        let holder = state.copiers[self.process].mutex;
        holder == 0 || holder as usize == self.target + 1
    }

    pub fn enter(&self, state: &mut State) {
        state.copiers[self.process].mutex = self.target as u8 + 1;
    }

    pub fn leave(&self, state: &mut State) {
        state.copiers[self.process].mutex = 0;
    }

    /// Everything in hand is needed, from the start.
    pub fn begin_again(&self, state: &mut State) {
        let me = self.me(state);
        me.need |= me.reading | me.publishing;
        (me.reading, me.publishing) = (0, 0);
        me.at = At::Decide;
    }

    fn step(&self, before: &State, out: &mut Steps) {
        let me = self.seen(before);
        match me.at {
            At::Load => self.load(before, out),
            At::Decide => self.decide(before, out),
            At::ClaimSecond => self.claim_second(before, out),
            At::Drain => self.drain(before, out),
            At::SealStore | At::SealMove | At::SealIndex | At::SealDelete => self.seal(before, out),
            At::Note
            | At::SliceBefore
            | At::ReadFirst
            | At::ReadHeader
            | At::SliceAfter
            | At::Bits
            | At::Counter => {
                let count = out.0.len();
                self.catch_up(before, out);
                if out.0.len() == count && !self.lacks(Guard::LookWhileWaiting) {
                    self.give_up_if_lost(before, out);
                }
            }
            _ => self.publish(before, out),
        }
    }

    fn load(&self, before: &State, out: &mut Steps) {
        self.go(
            before,
            out,
            "step 1: loads the last manifest",
            At::Decide,
            |state| {
                let (store, record) = (state.stores[self.target], state.records[self.target]);
                let is_known = !record.is_there || record.behind <= 1;
                let me = self.me(state);
                (me.base, me.behind) = (store.image, 0);
                let is_trusted = is_known || self.lacks(Guard::ManifestOfRecord);
                if !store.is_there || !is_trusted {
                    me.need = ALL;
                }
            },
        );
    }

    fn decide(&self, before: &State, out: &mut Steps) {
        let (me, control) = (self.seen(before), self.control(before));
        if control.todo != 0 {
            self.claim_first(before, out, At::Decide);
        } else if me.need != 0 {
            self.go(before, out, "step 3: begins a catch-up", At::Drain, |_| ());
        } else if !control.log.is_empty() || control.log_damaged {
            self.go(before, out, "there is a log", At::SealStore, |state| {
                self.me(state).back = At::ClaimAgain;
            });
        } else if !me.offers.is_empty() {
            self.go(before, out, "there are offers", At::ClaimAgain, |_| ());
        } else {
            self.idle(before, out);
        }
    }

    fn give_up_if_lost(&self, before: &State, out: &mut Steps) {
        let copier = &before.copiers[self.process];
        if copier.mapped != before.linked && copier.mutex == 0 {
            let what = "recovery: not its control page, gives up";
            self.go(before, out, what, At::Decide, |state| {
                stop(state, self.process)
            });
        }
    }

    /// Copier step 11.
    fn idle(&self, before: &State, out: &mut Steps) {
        let (me, control) = (self.seen(before), self.control(before));
        let copier = before.copiers[self.process];
        if copier.mapped != before.linked {
            self.give_up_if_lost(before, out);
            return;
        }
        let is_settled = before.records[self.target].settled && !self.lacks(Guard::OncePerEpoch);
        if self.is_open(before) && before.file.counter != me.base.counter {
            if !self.lacks(Guard::IdleCounter) {
                self.go(
                    before,
                    out,
                    "step 11: the counter is not the manifest's",
                    At::Decide,
                    |state| {
                        self.me(state).need = ALL;
                    },
                );
            }
        } else if self.is_quiet_now(before) && control.odd && control.dirty != 0 && !is_settled {
            if !self.lacks(Guard::IdleDirty) {
                self.go(before, out, "step 11: somebody died", At::Decide, |state| {
                    self.me(state).need |= control.dirty;
                });
            }
        } else if self.configuration.release && copier.mutex == 0 {
            let is_done = |target: &Target| target.at == At::Decide && target.lacks() == 0;
            if copier.targets[..self.configuration.targets]
                .iter()
                .all(is_done)
            {
                self.go(
                    before,
                    out,
                    "gives its lock up, all is done",
                    At::Decide,
                    |state| {
                        stop(state, self.process);
                    },
                );
            }
        }
    }
}
