//! A writer of ours, step for step as in docs/PROTOCOL.md: begin here, `write.rs`, `end.rs`; `checker.rs` calls it, `state.rs` is what it changes.

mod end;
mod write;

use crate::configurations::Configuration;
use crate::guards::Guard;
use crate::image::{ALL, chunk_of};
use crate::state::{Control, NONE, State, Writer, WriterAt as At};
use crate::steps::Steps;

const NAMES: [&str; 2] = ["writer 1", "writer 2"];

/// All steps that writer `me` (from 0) can take.
pub fn steps(before: &State, me: usize, configuration: &Configuration, out: &mut Steps) {
    let walk = Walk { me, configuration };
    let writer = before.writers[me];
    walk.step(before, out);
    let is_open = writer.at != At::Idle || writer.keeps;
    if is_open && before.budget.kill_writer > 0 {
        let mut next = *before;
        next.budget.kill_writer -= 1;
        walk.die(&mut next);
        out.push(NAMES[me], "is killed", next);
    }
}

/// Takes the steps that have no effect that anybody could see.
pub fn go_on(state: &mut State, me: usize, configuration: &Configuration) {
    loop {
        let writer = state.writers[me];
        if writer.mapped == NONE || writer.at == At::Idle {
            return;
        }
        let control = state.controls[writer.mapped as usize];
        let is_its_page = state.budget.lose_folder == 0 && writer.mapped == state.linked;
        let is_silent = match writer.at {
            At::Look => is_its_page,
            At::EndLook => is_its_page && !configuration.off.lacks(Guard::BitBeforeWrite),
            At::Adopt => !control.odd,
            At::CompareCounter => state.file.counter == control.last_cc,
            At::ClearFirst => control.dirty & 1 == 0,
            At::ClearSecond => control.dirty & 2 == 0,
            At::Idle | At::LoadHead | At::Swap | At::LastCc | At::RollBack => false,
            _ => configuration.coarse,
        };
        if !is_silent {
            return;
        }
        let mut steps = Steps::default();
        Walk { me, configuration }.step(state, &mut steps);
        // The first is the step forward; others are roll-backs.
        match steps.0.into_iter().next() {
            Some(step) => *state = step.next,
            None => return,
        }
    }
}

/// Builds a control page aside and links it; `false` if the model has no room for a third one.
pub fn link_new_page(state: &mut State, configuration: &Configuration) -> bool {
    let is_mapped = |page: u8| {
        state.writers.iter().any(|writer| writer.mapped == page)
            || state.copiers.iter().any(|copier| copier.mapped == page)
    };
    let Some(page) = (0..2).find(|&page| !is_mapped(page)) else {
        return false;
    };
    let is_taken_for_known = configuration.off.lacks(Guard::NewPageIsTodo);
    state.controls[page as usize] = Control {
        todo: if is_taken_for_known { 0 } else { ALL },
        last_cc: NONE,
        ..Control::default()
    };
    state.linked = page;
    true
}

struct Walk<'a> {
    me: usize,
    configuration: &'a Configuration,
}

impl Walk<'_> {
    fn id(&self) -> u8 {
        self.me as u8 + 1
    }

    fn lacks(&self, guard: Guard) -> bool {
        self.configuration.off.lacks(guard)
    }

    /// Takes one step to `at`; `change` is its effect.
    fn go(
        &self,
        before: &State,
        out: &mut Steps,
        what: &'static str,
        at: At,
        change: impl FnOnce(&mut State),
    ) {
        let mut next = *before;
        next.writers[self.me].at = at;
        change(&mut next);
        out.push(NAMES[self.me], what, next);
    }

    fn page<'s>(&self, state: &'s mut State) -> &'s mut Control {
        &mut state.controls[state.writers[self.me].mapped as usize]
    }

    fn writer<'s>(&self, state: &'s mut State) -> &'s mut Writer {
        &mut state.writers[self.me]
    }

    fn die(&self, state: &mut State) {
        let writer = state.writers[self.me];
        if state.exclusive == self.id() {
            state.exclusive = 0;
        }
        state.shared &= !(1 << self.me);
        for control in &mut state.controls {
            if control.exclusive == self.id() && !self.lacks(Guard::ExclusivePidLives) {
                control.exclusive = 0;
            }
        }
        state.writers[self.me] = Writer {
            transactions: writer.transactions,
            mapped: NONE,
            ..Writer::default()
        };
    }

    fn set_epoch(&self, state: &mut State, odd: bool) {
        let mapped = state.writers[self.me].mapped;
        self.page(state).odd = odd;
        for copier in &mut state.copiers {
            if copier.mapped == mapped {
                for target in &mut copier.targets {
                    target.slice_epoch = true;
                    target.epoch = true;
                }
            }
        }
        for record in &mut state.records {
            record.settled = false;
        }
    }

    fn write(&self, state: &mut State, page: usize) {
        let writer = state.writers[self.me];
        state.file.pages[page] = writer.number;
        if page == 0 {
            let size = match writer.kind {
                3 => 2,
                2 => 3,
                _ => state.file.size,
            };
            // In exclusive mode only the first transaction moves the counter.
            let counter = state.last_commit().counter + u8::from(!writer.keeps);
            (state.file.counter, state.file.size) = (counter, size);
        }
        self.writer(state).mine |= 1 << page;
        state.touched(self.configuration.coarse_clock);
        if self.lacks(Guard::EpochBeforeWrites) && !self.page(state).odd {
            self.set_epoch(state, true);
        }
    }

    fn mark(&self, state: &mut State, page: usize) {
        if !self.lacks(Guard::BitBeforeWrite) {
            self.page(state).dirty |= chunk_of(page);
        }
    }

    fn step(&self, before: &State, out: &mut Steps) {
        match before.writers[self.me].at {
            At::Idle => self.idle(before, out),
            At::Look | At::Adopt | At::EpochOdd | At::CompareCounter => self.begin(before, out),
            At::MarkPage
            | At::WritePage
            | At::MarkHeader
            | At::WriteHeader
            | At::Commit
            | At::MarkCut
            | At::Cut
            | At::RollBack
            | At::Restore => self.write_steps(before, out),
            _ => self.end(before, out),
        }
    }

    fn idle(&self, before: &State, out: &mut Steps) {
        let writer = before.writers[self.me];
        let others = before.shared & !(1 << self.me);
        let may_lock = before.exclusive == 0 && others == 0;
        let fresh = |state: &mut State| {
            let old = state.writers[self.me];
            state.writers[self.me] = Writer {
                at: At::Look,
                transactions: old.transactions,
                mapped: old.mapped,
                keeps: old.keeps,
                ..Writer::default()
            };
            state.exclusive = self.id();
        };
        if may_lock && before.journal {
            self.go(
                before,
                out,
                "takes EXCLUSIVE to roll a hot journal back",
                At::Look,
                |state| {
                    fresh(state);
                    state.writers[self.me].rolls_back = true;
                },
            );
            return;
        }
        if (may_lock || writer.keeps)
            && writer.transactions < self.configuration.transactions[self.me]
        {
            for kind in 1..=3 {
                let is_resize = kind == 3 || (kind == 2 && !before.file.is_long());
                let fits = match kind {
                    1 => true,
                    2 => before.last_commit().size == 3 || self.configuration.resize,
                    _ => before.last_commit().size == 3,
                };
                let is_turn = !self.configuration.coarse || kind == 2 - before.attempts % 2;
                if !fits || (is_resize && !self.configuration.resize) || !is_turn {
                    continue;
                }
                let what = match kind {
                    1 => "begins: journal, EXCLUSIVE (pages 1 and 0)",
                    2 => "begins: journal, EXCLUSIVE (pages 2 and 0)",
                    _ => "begins: journal, EXCLUSIVE (cuts page 2 off)",
                };
                self.go(before, out, what, At::Look, |state| {
                    fresh(state);
                    state.journal = true;
                    state.attempts += 1;
                    let number = state.attempts;
                    let writer = self.writer(state);
                    (writer.number, writer.kind) = (number, kind);
                    writer.transactions += 1;
                });
            }
        }
        let is_spurious = self.lacks(Guard::HeldExclusive) && before.exclusive == 0 && others != 0;
        if is_spurious && writer.transactions < self.configuration.transactions[self.me] {
            self.go(
                before,
                out,
                "BEGIN IMMEDIATE, COMMIT without a write",
                At::EndLook,
                |state| {
                    state.shared |= 1 << self.me;
                    self.writer(state).transactions += 1;
                },
            );
        }
        if writer.keeps {
            self.go(
                before,
                out,
                "leaves exclusive mode: exclusive_pid = 0",
                At::Unlock,
                |state| {
                    if !self.lacks(Guard::ExclusivePidZeroed) {
                        self.page(state).exclusive = 0;
                    }
                },
            );
        }
    }

    fn begin(&self, before: &State, out: &mut Steps) {
        let writer = before.writers[self.me];
        match writer.at {
            At::Look => {
                let mut next = *before;
                if self.find_page(
                    &mut next,
                    self.lacks(Guard::LookAtBegin) || self.lacks(Guard::LookAtAll),
                ) {
                    next.writers[self.me].at = At::Adopt;
                    out.push(
                        NAMES[self.me],
                        "looks whether the control page is its own",
                        next,
                    );
                }
            }
            At::Adopt => self.go(
                before,
                out,
                "step 1: adopts what a dead writer left",
                At::CompareCounter,
                |state| {
                    let control = *self.page(state);
                    if control.odd && !self.lacks(Guard::AdoptLeftovers) {
                        self.page(state).todo |= control.dirty;
                        if !self.lacks(Guard::AdoptedNotImaged) {
                            self.page(state).imaged &= !control.dirty;
                        }
                        if !self.lacks(Guard::ClearAdopted) {
                            self.writer(state).adopted = control.dirty;
                        }
                    }
                },
            ),
            // Before the epoch is odd: whoever dies in between leaves a to-do too much.
            At::CompareCounter => self.go(
                before,
                out,
                "step 3: compares counter and last_cc",
                At::EpochOdd,
                |state| {
                    let counter = state.file.counter;
                    let control = self.page(state);
                    if counter != control.last_cc && !self.lacks(Guard::CounterAtBegin) {
                        control.todo = ALL;
                    }
                },
            ),
            _ => {
                let next = match writer {
                    _ if writer.rolls_back => At::RollBack,
                    _ if writer.cut_left => At::MarkCut,
                    Writer { kind: 3, .. } => At::MarkHeader,
                    _ => At::MarkPage,
                };
                self.go(before, out, "step 2: epoch odd", next, |state| {
                    if !self.lacks(Guard::EpochBeforeWrites) {
                        self.set_epoch(state, true);
                    }
                });
            }
        }
    }

    /// Maps the page that is linked, everything to-do if that is another one.
    fn find_page(&self, state: &mut State, keeps_old: bool) -> bool {
        let mapped = state.writers[self.me].mapped;
        if mapped != NONE && (mapped == state.linked || keeps_old) {
            return true;
        }
        if state.linked == NONE && !link_new_page(state, self.configuration) {
            return false;
        }
        self.writer(state).mapped = state.linked;
        if mapped != NONE && !self.lacks(Guard::MappedAnewIsTodo) {
            self.page(state).todo = ALL;
        }
        true
    }
}
