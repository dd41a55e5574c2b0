//! What happens to the actors rather than by them: late answers, lost files, power failures, the clock; `checker.rs` calls it.

use crate::configurations::Configuration;
use crate::copier::stop;
use crate::guards::Guard;
use crate::state::{Control, Foreign, Late, NONE, Record, State, TargetAt, Writer};
use crate::steps::Steps;

const NAME: &str = "misfortune";

/// All that can happen.
pub fn steps(before: &State, configuration: &Configuration, out: &mut Steps) {
    let mut go = |what: &'static str, change: &dyn Fn(&mut State)| {
        let mut next = *before;
        change(&mut next);
        out.push(NAME, what, next);
    };
    let budget = before.budget;
    if before.fresh {
        go("the clock ticks", &|state| state.fresh = false);
    }
    for target in 0..configuration.targets {
        let late = before.late[target];
        let is_taken = late.behind == 0 || configuration.off.lacks(Guard::PublishIsConditional);
        if late.is_there && is_taken {
            go("a late PUT takes effect", &|state| {
                state.late[target] = Late::default();
                state.store(target, late.image, late.undone);
            });
        }
        if budget.lose_record > 0 && before.records[target].is_there {
            go("a record is lost", &|state| {
                state.budget.lose_record -= 1;
                state.records[target] = Record::default();
            });
        }
    }
    if before.linked == NONE {
        return;
    }
    if budget.lose_folder > 0 {
        go("the folder of the database is lost", &|state| {
            state.budget.lose_folder -= 1;
            state.linked = NONE;
            state.records = Default::default();
        });
    }
    let control = before.controls[before.linked as usize];
    if budget.lose_log > 0 && !control.log.is_empty() {
        go("the log is damaged", &|state| {
            state.budget.lose_log -= 1;
            state.controls[state.linked as usize].log_damaged = true;
        });
    }
    // What was indexed was read; damage to what is read later is the same as damage before.
    let is_read = before.copiers.iter().any(|copier| {
        copier
            .targets
            .iter()
            .any(|target| target.at == TargetAt::SealDelete)
    });
    if budget.lose_log > 0 && control.is_left && !is_read {
        go("the sealed log is damaged", &|state| {
            state.budget.lose_log -= 1;
            state.controls[state.linked as usize].left_damaged = true;
        });
    }
    if budget.reboot > 0 {
        go("REBOOT", &reboot);
        if !before.journal && before.committed > 1 {
            go("REBOOT, and the last journal is there again", &|state| {
                reboot(state);
                undo(state);
            });
        }
    }
}

/// All processes end; what the spool held is of another boot, and removed.
fn reboot(state: &mut State) {
    state.budget.reboot -= 1;
    for writer in &mut state.writers {
        *writer = Writer {
            transactions: writer.transactions,
            mapped: NONE,
            ..Writer::default()
        };
    }
    state.foreign = Foreign {
        transactions: state.foreign.transactions,
        ..Foreign::default()
    };
    stop(state, 0);
    stop(state, 1);
    (state.exclusive, state.shared, state.linked) = (0, 0, NONE);
    state.controls = [Control::default(); 2];
    state.records = Default::default();
}

/// SQLite does not sync the folder after it deletes a journal: the power failure undoes the last transaction.
fn undo(state: &mut State) {
    state.committed -= 1;
    let undone = state.history[state.committed as usize];
    state.history[state.committed as usize] = Default::default();
    state.journal = true;
    for target in 0..2 {
        state.stores[target].state = state.stores[target].state.min(state.committed - 1);
        let late = &mut state.late[target];
        late.undone = late.is_there && late.image.shows(&undone);
    }
}
