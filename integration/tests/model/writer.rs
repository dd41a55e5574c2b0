//! A writer of ours, step for step as in docs/PROTOCOL.md; `checker.rs` calls it, `state.rs` is what it changes.

use crate::configurations::Configuration;
use crate::guards::Guard;
use crate::state::{
    ABSENT, ALL, Bad, Control, Image, NONE, Overlay, State, Writer, WriterAt as At, chunk_of,
    chunks,
};
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
        self.page(state).dirty |= chunk_of(page);
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
            self.go(before, out, "takes EXCLUSIVE to roll a hot journal back", At::Look, |state| {
                fresh(state);
                state.writers[self.me].rolls_back = true;
            });
            return;
        }
        if (may_lock || writer.keeps) && writer.transactions < self.configuration.transactions[self.me]
        {
            for kind in 1..=3 {
                let is_resize = kind == 3 || (kind == 2 && !before.file.is_long());
                let fits = match kind {
                    1 => true,
                    2 => before.last_commit().size == 3 || self.configuration.resize,
                    _ => before.last_commit().size == 3,
                };
                if !fits || (is_resize && !self.configuration.resize) {
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
            self.go(before, out, "BEGIN IMMEDIATE, COMMIT without a write", At::EndLook, |state| {
                state.shared |= 1 << self.me;
                self.writer(state).transactions += 1;
            });
        }
        if writer.keeps {
            self.go(before, out, "leaves exclusive mode: exclusive_pid = 0", At::Unlock, |state| {
                if !self.lacks(Guard::ExclusivePidZeroed) {
                    self.page(state).exclusive = 0;
                }
            });
        }
    }

    fn begin(&self, before: &State, out: &mut Steps) {
        let writer = before.writers[self.me];
        match writer.at {
            At::Look => {
                let mut next = *before;
                if self.find_page(&mut next, self.lacks(Guard::LookAtBegin)) {
                    next.writers[self.me].at = At::Adopt;
                    out.push(NAMES[self.me], "looks whether the control page is its own", next);
                }
            }
            At::Adopt => self.go(before, out, "step 1: adopts what a dead writer left", At::EpochOdd, |state| {
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
            }),
            At::EpochOdd => self.go(before, out, "step 2: epoch odd", At::CompareCounter, |state| {
                if !self.lacks(Guard::EpochBeforeWrites) {
                    self.set_epoch(state, true);
                }
            }),
            _ => {
                let next = match writer {
                    _ if writer.rolls_back => At::RollBack,
                    _ if writer.cut_left => At::MarkCut,
                    Writer { kind: 3, .. } => At::MarkHeader,
                    _ => At::MarkPage,
                };
                self.go(before, out, "step 3: compares counter and last_cc", next, |state| {
                    let counter = state.file.counter;
                    let control = self.page(state);
                    if counter != control.last_cc && !self.lacks(Guard::CounterAtBegin) {
                        control.todo = ALL;
                    }
                });
            }
        }
    }

    /// Maps the page that is linked, everything to-do if that is another one.
    fn find_page(&self, state: &mut State, keeps_old: bool) -> bool {
        let mapped = state.writers[self.me].mapped;
        if mapped == state.linked && mapped != NONE || mapped != NONE && keeps_old {
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

    fn write_steps(&self, before: &State, out: &mut Steps) {
        let writer = before.writers[self.me];
        let marks_late = self.lacks(Guard::BitBeforeWrite);
        match writer.at {
            At::MarkPage => self.go(before, out, "step 4: dirty bit of the page", At::WritePage, |state| {
                if !marks_late {
                    self.mark(state, writer.kind as usize);
                }
            }),
            At::WritePage => self.go(before, out, "writes the page", At::MarkHeader, |state| {
                self.write(state, writer.kind as usize);
            }),
            At::MarkHeader => {
                self.go(before, out, "step 4: dirty bit of page 0", At::WriteHeader, |state| {
                    self.mark(state, 0);
                    if marks_late && writer.kind != 3 {
                        self.mark(state, writer.kind as usize);
                    }
                });
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
            At::MarkCut => self.go(before, out, "step 4: dirty bit of the cut", At::Cut, |state| {
                self.mark(state, 2);
            }),
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
            _ => self.go(before, out, "roll-back: restores it", At::RollBack, |state| {
                state.restore(writer.page, self.configuration.coarse_clock);
                self.writer(state).mine |= if writer.page == 3 { 4 } else { 1 << writer.page };
            }),
        }
    }

    fn is_exclusive(&self) -> bool {
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
        match before.to_restore() {
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
                self.go(before, out, "roll-back: the journal is gone", next, |state| {
                    state.journal = false;
                    if next == At::Idle {
                        self.writer(state).keeps = true;
                    }
                });
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

    /// The end of a transaction: writer steps 5 to 7.
    fn end(&self, before: &State, out: &mut Steps) {
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
                if self.find_page(&mut next, self.lacks(Guard::LookAtEnd)) {
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
            At::LastCc => self.go(before, out, "step 7: imaged, last_cc", At::ClearFirst, |state| {
                let is_late = self.lacks(Guard::LastCcBeforeBitsClear);
                let counter = state.file.counter;
                let is_blind = self.lacks(Guard::ImagedOfItsGeneration);
                if writer.postponed == 2 && (!writer.sealed || is_blind) {
                    self.page(state).imaged |= mine;
                }
                if !is_late && !(writer.number == 0 && !writer.rolls_back) {
                    self.page(state).last_cc = counter;
                }
            }),
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
                self.go(before, out, "step 7: epoch even, releases SHARED", next, |state| {
                    self.set_epoch(state, false);
                    if self.is_exclusive() {
                        self.page(state).exclusive = self.id();
                        self.writer(state).keeps = true;
                    }
                    state.shared &= !(1 << self.me);
                    let writer = self.writer(state);
                    (writer.mine, writer.adopted, writer.postponed) = (0, 0, 0);
                    (writer.head_moved, writer.sealed, writer.second_try) = (false, false, false);
                });
            }
            At::Abandon => {
                let next = if writer.cut_left { At::Adopt } else { At::Idle };
                self.go(before, out, "leaves all to the new page, releases SHARED", next, |state| {
                    state.shared &= !(1 << self.me);
                    let is_exclusive = self.is_exclusive();
                    let writer = self.writer(state);
                    writer.keeps = is_exclusive;
                    (writer.mine, writer.adopted) = (0, 0);
                });
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
        self.go(before, out, "step 5: loads head, writes a record there", At::Swap, |state| {
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
        });
        if before.budget.overflow > 0 {
            let is_late = self.lacks(Guard::TodoBeforeBitsClear);
            self.go(before, out, "step 6: too much to log, mine becomes to-do", At::LastCc, |state| {
                state.budget.overflow -= 1;
                if is_late {
                    self.writer(state).postponed = 1;
                } else if !self.lacks(Guard::OverflowIsTodo) {
                    self.page(state).todo |= mine;
                }
            });
        }
    }

    fn swap(&self, before: &State, out: &mut Steps, mine: u8) {
        let writer = before.writers[self.me];
        if !writer.head_moved {
            self.go(before, out, "step 6: moves head", At::LastCc, |state| {
                let file = state.file;
                let is_early = self.lacks(Guard::ImagedAfterSwap);
                let control = self.page(state);
                let imaged = if is_early { control.imaged & !writer.page } else { control.imaged };
                let record = self.record(&file, writer.mine, imaged, &control.log);
                control.log.add(&record);
                control.moved_since_sealed = true;
                self.writer(state).postponed = 2;
            });
        } else if self.lacks(Guard::FailedSwapNoticed) {
            self.go(before, out, "does not look whether head moved", At::LastCc, |_| ());
        } else if writer.second_try {
            let forgets = self.lacks(Guard::SecondFailureIsTodo);
            self.go(before, out, "step 6: sealed again, mine becomes to-do", At::LastCc, |state| {
                if self.lacks(Guard::TodoBeforeBitsClear) {
                    self.writer(state).postponed = 1;
                } else if !forgets {
                    self.page(state).todo |= mine;
                }
            });
        } else {
            self.go(before, out, "step 6: sealed meanwhile, once more", At::LoadHead, |state| {
                self.writer(state).second_try = true;
            });
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

