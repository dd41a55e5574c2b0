//! A writer with SQLite's own `unix` VFS, which knows nothing of the spool; `checker.rs` calls it.

use crate::configurations::Configuration;
use crate::image::ABSENT;
use crate::state::{Foreign, ForeignAt as At, State};
use crate::steps::Steps;

const NAME: &str = "foreign writer";
/// Its number among the holders of EXCLUSIVE.
const ID: u8 = 3;

/// All steps that the foreign writer can take.
pub fn steps(before: &State, configuration: &Configuration, out: &mut Steps) {
    if configuration.foreign == 0 {
        return;
    }
    let foreign = before.foreign;
    let mut go = |what: &'static str, at: At, change: &dyn Fn(&mut State)| {
        let mut next = *before;
        next.foreign.at = at;
        change(&mut next);
        out.push(NAME, what, next);
    };
    let write = |state: &mut State, page: usize| {
        state.file.pages[page] = foreign.number;
        if page == 0 {
            state.file.counter = state.last_commit().counter + 1;
            state.file.size = match foreign.kind {
                3 => 2,
                2 => 3,
                _ => state.file.size,
            };
        }
        state.touched(configuration.coarse_clock);
    };
    match foreign.at {
        At::Idle => {
            let may_lock = before.exclusive == 0 && before.shared == 0;
            if may_lock && before.journal {
                go(
                    "takes EXCLUSIVE to roll a hot journal back",
                    At::RollBack,
                    &|state| {
                        state.exclusive = ID;
                    },
                );
            } else if may_lock && foreign.transactions < configuration.foreign {
                for kind in 1..=3 {
                    let size = before.last_commit().size;
                    let is_resize = kind == 3 || (kind == 2 && size == 2);
                    if (is_resize && !configuration.resize) || (kind == 3 && size == 2) {
                        continue;
                    }
                    let at = if kind == 3 {
                        At::WriteHeader
                    } else {
                        At::WritePage
                    };
                    go("begins: journal, EXCLUSIVE", at, &|state| {
                        state.exclusive = ID;
                        state.journal = true;
                        state.attempts += 1;
                        state.foreign.number = state.attempts;
                        state.foreign.kind = kind;
                        state.foreign.transactions += 1;
                    });
                }
            }
        }
        At::WritePage => go("writes its page", At::WriteHeader, &|state| {
            write(state, foreign.kind as usize);
        }),
        At::WriteHeader => {
            go("writes page 0", At::Commit, &|state| write(state, 0));
            if foreign.kind != 3 {
                go("ROLLBACK", At::RollBack, &|_| ());
            }
        }
        At::Commit => {
            let next = if foreign.kind == 3 {
                At::Cut
            } else {
                At::Unlock
            };
            go("COMMITS: the journal is gone", next, &|state| {
                state.journal = false;
                state.commit();
            });
            if foreign.kind != 3 {
                go("ROLLBACK", At::RollBack, &|_| ());
            }
        }
        At::Cut => go("cuts the file", At::Unlock, &|state| {
            state.file.pages[2] = ABSENT;
            state.touched(configuration.coarse_clock);
        }),
        At::RollBack => match before.next_to_restore() {
            Some(what) => go("roll-back: restores a page", At::RollBack, &|state| {
                state.restore(what, configuration.coarse_clock);
            }),
            None => go("roll-back: the journal is gone", At::Unlock, &|state| {
                state.journal = false;
            }),
        },
        At::Unlock => go("unlocks", At::Idle, &|state| {
            state.exclusive = 0;
            reset(state);
        }),
    }
    if foreign.at != At::Idle && before.budget.kill_foreign > 0 {
        go("is killed", At::Idle, &|state| {
            state.budget.kill_foreign -= 1;
            state.exclusive = 0;
            reset(state);
        });
    }
}

fn reset(state: &mut State) {
    state.foreign = Foreign {
        transactions: state.foreign.transactions,
        ..Foreign::default()
    };
}
