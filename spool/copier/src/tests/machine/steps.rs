//! What can happen, and how often; `run` does it. A case is a list of phrases: single steps, and a few short sequences that chance alone would seldom
//! put together. Each step stands for itself: what makes no sense at the moment is left out when it is run, so that any part of a case is a case.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::trial::Spoil;

/// Connections: two in one process and one in another, through `verneuil`, and one through SQLite's own `unix`.
pub(super) const CONNECTIONS: usize = 4;
/// The one that knows nothing of the spool.
pub(super) const FOREIGN: usize = 3;
/// Which process a connection is in.
pub(super) const PROCESS_OF: [usize; CONNECTIONS] = [0, 0, 1, 2];
pub(super) const PROCESSES: usize = 3;
/// Rows of the table.
pub(super) const ROWS: u16 = 600;

/// What the store forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Manifest,
    Everything,
    /// The packs alone: the manifest that is there leads nowhere.
    Packs,
}

/// What becomes of the database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Deleted; the next opener makes a new one.
    Unlink,
    /// Renamed, and back again with another move.
    Away,
    /// A copy of the file under another name is put in its place: the one that was renamed, or an earlier state.
    Replace,
    /// As `Replace`, into the same file.
    CopyOver,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Rows are written, in the transaction that is open or in one of their own.
    Put {
        who: usize,
        first: u16,
        count: u16,
        len: u16,
    },
    /// Every row is written, so many times: the log overflows.
    Bulk {
        who: usize,
        times: u8,
    },
    Begin {
        who: usize,
    },
    /// Begins, and writes more than the page cache holds.
    Spill {
        who: usize,
    },
    Read {
        who: usize,
    },
    Commit {
        who: usize,
    },
    Rollback {
        who: usize,
    },
    /// Deletes most rows, and makes the file shorter.
    Shrink {
        who: usize,
        vacuum: bool,
    },
    Journal {
        who: usize,
        mode: &'static str,
    },
    Exclusive {
        who: usize,
        on: bool,
    },
    Close {
        who: usize,
    },
    Kill {
        process: usize,
    },
    /// The process dies within one of its next calls.
    Die {
        process: usize,
        calls: u32,
        unlocks: u32,
    },
    /// The copier goes on with a target, past so many points.
    Copy {
        target: usize,
        points: Option<u32>,
    },
    KillCopier,
    Flush,
    Away {
        target: usize,
    },
    Spoil {
        target: usize,
        n: u32,
        spoil: Spoil,
    },
    Mend {
        target: usize,
    },
    Lose {
        target: usize,
        loss: Loss,
    },
    /// The machine goes down; with `wiped`, the spool has not survived it.
    Reboot {
        wiped: bool,
    },
    /// Somebody deletes the database's folder in the spool.
    LoseFolder,
    Move(Move),
}

/// What stays the same in a case.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) targets: usize,
    pub(super) page_len: u32,
    pub(super) auto_vacuum: u8,
    /// `PRAGMA cache_size` of each connection: a small one spills.
    pub(super) caches: [u16; CONNECTIONS],
    pub(super) first_rows: u16,
}

pub(super) fn setup() -> impl Strategy<Value = Setup> {
    let cache = || select(vec![5u16, 20, 2_000]);
    (
        1..=2usize,
        select(vec![512u32, 1_024, 4_096, 4_096, 65_536]),
        0..3u8,
        [cache(), cache(), cache(), cache()],
        select(vec![0u16, 20, 150, 400]),
    )
        .prop_map(
            |(targets, page_len, auto_vacuum, caches, first_rows)| Setup {
                targets,
                page_len,
                auto_vacuum,
                caches,
                first_rows,
            },
        )
}

/// Whoever writes: seldom the foreign one.
fn who() -> impl Strategy<Value = usize> {
    select(vec![0usize, 0, 0, 1, 2, 2, FOREIGN])
}

fn ours() -> impl Strategy<Value = usize> {
    select(vec![0usize, 0, 1, 2])
}

fn put(who: impl Strategy<Value = usize>) -> impl Strategy<Value = Step> {
    let shape = prop_oneof![
        6 => (1..4u16, 1..200u16),
        2 => (1..20u16, 100..4_000u16),
        1 => (20..150u16, 500..4_000u16),
    ];
    (who, 0..ROWS - 150, shape).prop_map(|(who, first, (count, len))| Step::Put {
        who,
        first,
        count,
        len,
    })
}

fn copy() -> impl Strategy<Value = Step> {
    let points = prop_oneof![3 => Just(None), 2 => (1..24u32).prop_map(Some)];
    (0..2usize, points).prop_map(|(target, points)| Step::Copy { target, points })
}

/// All that is pending goes out, as a rule.
fn drain() -> Vec<Step> {
    let copy = |target| Step::Copy {
        target,
        points: None,
    };
    vec![copy(0), copy(1), copy(0), copy(1)]
}

fn fault() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..2usize).prop_map(|target| Step::Away { target }),
        3 => (0..2usize, 0..6u32, select(vec![Spoil::Refuse, Spoil::LoseAnswer]))
            .prop_map(|(target, n, spoil)| Step::Spoil { target, n, spoil }),
        2 => (0..2usize).prop_map(|target| Step::Mend { target }),
        1 => (0..2usize, select(vec![Loss::Manifest, Loss::Everything, Loss::Packs]))
            .prop_map(|(target, loss)| Step::Lose { target, loss }),
    ]
}

fn single() -> impl Strategy<Value = Step> {
    let moves = vec![Move::Unlink, Move::Away, Move::Replace, Move::CopyOver];
    let modes = vec!["DELETE", "TRUNCATE", "PERSIST"];
    prop_oneof![
        12 => put(who()),
        12 => copy(),
        3 => who().prop_map(|who| Step::Begin { who }),
        2 => who().prop_map(|who| Step::Spill { who }),
        4 => who().prop_map(|who| Step::Commit { who }),
        3 => who().prop_map(|who| Step::Rollback { who }),
        1 => who().prop_map(|who| Step::Read { who }),
        2 => (who(), any::<bool>()).prop_map(|(who, vacuum)| Step::Shrink { who, vacuum }),
        2 => (who(), select(modes)).prop_map(|(who, mode)| Step::Journal { who, mode }),
        2 => (who(), any::<bool>()).prop_map(|(who, on)| Step::Exclusive { who, on }),
        1 => who().prop_map(|who| Step::Close { who }),
        2 => (0..PROCESSES).prop_map(|process| Step::Kill { process }),
        2 => Just(Step::KillCopier),
        3 => Just(Step::Flush),
        4 => fault(),
        1 => any::<bool>().prop_map(|wiped| Step::Reboot { wiped }),
        1 => Just(Step::LoseFolder),
        2 => select(moves).prop_map(Step::Move),
        1 => (ours(), 1..5u8).prop_map(|(who, times)| Step::Bulk { who, times }),
    ]
}

/// The process of `who` dies while that writes.
fn death() -> impl Strategy<Value = Vec<Step>> {
    let moment = prop_oneof![
        1 => (1..60u32).prop_map(|calls| (calls, 0)),
        1 => Just((0, 1)),
    ];
    (ours(), moment, put(Just(0)), any::<bool>()).prop_map(
        |(who, (calls, unlocks), mut put, read)| {
            let process = PROCESS_OF[who];
            if let Step::Put { who: writer, .. } = &mut put {
                *writer = who;
            }
            let die = Step::Die {
                process,
                calls,
                unlocks,
            };
            let mut steps = vec![die, put];
            if read {
                // Somebody else opens it, and rolls back.
                steps.push(Step::Read { who: FOREIGN });
                steps.push(Step::Rollback { who: FOREIGN });
            }
            steps
        },
    )
}

fn phrase() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        16 => single().prop_map(|step| vec![step]),
        // The steady state, which most else needs as its ground.
        3 => (put(ours()), put(who())).prop_map(|(a, b)| {
            let mut steps = vec![a];
            steps.extend(drain());
            steps.push(b);
            steps.extend(drain());
            steps
        }),
        2 => death(),
        // A hot journal.
        1 => who().prop_map(|who| vec![
            Step::Spill { who },
            Step::Kill { process: PROCESS_OF[who] },
        ]),
        // A copier dies half way, with others at work.
        2 => (put(ours()), copy(), put(who()), copy()).prop_map(|(a, b, c, d)| {
            vec![a, b, c, Step::KillCopier, d]
        }),
        // A target is behind, and the other goes on.
        1 => (put(ours()), put(ours()), put(who())).prop_map(|(a, b, c)| {
            let one = || Step::Copy { target: 0, points: None };
            vec![a, one(), b, one(), c, one(), Step::KillCopier]
        }),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    vec(phrase(), 4..22)
}
