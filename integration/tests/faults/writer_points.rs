//! A writer is killed before each system call between the first write of a transaction and the end of its append: SQLite comes back with
//! the state that stock SQLite has there, and flush and the next commit publish the file, and nothing else.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;

use crate::interposer::{Action, Call, Fault, WRITER};
use crate::scene::{
    Reference, State, content, each_point, flush, flush_is_honest, is_published, published,
};

/// A transaction and what comes before it.
struct Case {
    name: &'static str,
    /// Committed before the base is published.
    before: &'static [&'static str],
    /// Done by the same connection afterwards, before it is watched: in the log when the transaction begins.
    prelude: &'static [&'static str],
    transaction: &'static [&'static str],
    /// The log is sealed from outside just before the transaction.
    is_sealed: bool,
    /// A writer died in the same transaction before, and left its marks.
    has_leftovers: bool,
}

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT NOT NULL)";
const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60) INSERT INTO t SELECT i, printf('%.*c', 1500, char(65+i%26)) FROM n";
/// SQLite writes nothing when nothing changes.
const OTHER: &str = "UPDATE t SET x=x||'other' WHERE id=1";
const UPDATE: &str = "UPDATE t SET x=x||'new' WHERE id%20=3";

const PLAIN: Case = Case {
    name: "DELETE",
    before: &[TABLE, FILL],
    prelude: &[OTHER],
    transaction: &[UPDATE],
    is_sealed: false,
    has_leftovers: false,
};

const CASES: [&[Case]; 4] = [
    &[
        PLAIN,
        Case {
            name: "TRUNCATE",
            prelude: &["PRAGMA journal_mode=TRUNCATE", OTHER],
            ..PLAIN
        },
        Case {
            name: "PERSIST",
            prelude: &["PRAGMA journal_mode=PERSIST", OTHER],
            ..PLAIN
        },
    ],
    &[
        Case {
            name: "first transaction of a new database",
            before: &[],
            prelude: &[],
            transaction: &[TABLE],
            ..PLAIN
        },
        Case {
            name: "a new log generation",
            is_sealed: true,
            ..PLAIN
        },
        Case {
            name: "after a dead writer",
            // The transaction itself is to find what is left.
            prelude: &[],
            has_leftovers: true,
            ..PLAIN
        },
        Case {
            name: "EXCLUSIVE",
            prelude: &["PRAGMA locking_mode=EXCLUSIVE", OTHER],
            ..PLAIN
        },
    ],
    &[
        Case {
            name: "spill",
            prelude: &["PRAGMA cache_size=2", OTHER],
            transaction: &["BEGIN", "UPDATE t SET x=x||'new' WHERE id%15=0", "COMMIT"],
            ..PLAIN
        },
        Case {
            name: "roll-back after a spill",
            prelude: &["PRAGMA cache_size=2", OTHER],
            transaction: &["BEGIN", "UPDATE t SET x=x||'new' WHERE id%15=0", "ROLLBACK"],
            ..PLAIN
        },
    ],
    &[
        Case {
            name: "shrink",
            before: &[
                "PRAGMA auto_vacuum=INCREMENTAL",
                TABLE,
                FILL,
                "DELETE FROM t WHERE id>40",
            ],
            transaction: &["PRAGMA incremental_vacuum"],
            ..PLAIN
        },
        Case {
            name: "VACUUM",
            before: &[TABLE, FILL, "DELETE FROM t WHERE id>10"],
            transaction: &["VACUUM"],
            ..PLAIN
        },
    ],
];

struct Died {
    setup: Setup,
    fault: Fault,
    /// The transaction was answered before.
    is_answered: bool,
}

fn session(setup: &Setup, fault: Option<&Fault>) -> Result<Session> {
    let mut config = setup.config();
    config["copier"]["mode"] = json!("external");
    let mut env = setup.env_with(&config);
    env.extend(fault.map(Fault::env).transpose()?.unwrap_or_default());
    let uri = setup.uri(&setup.database());
    let opening = Opening {
        uri: &uri,
        load: true,
        env: &env,
    };
    Session::open(Program::Rusqlite, &opening)
}

/// A life of the writer up to its death, if there is one.
fn die(case: &Case, at: usize, action: Action) -> Result<Died> {
    let setup = Setup::new(Kind::Directory)?;
    let fault = |at, action| Fault {
        program: WRITER,
        files: vec![setup.spool(), setup.path("source/")],
        is_marked: true,
        at,
        action,
        log: setup.path("calls"),
    };
    if !case.before.is_empty() {
        let mut first = session(&setup, None)?;
        first.run(&["PRAGMA synchronous=OFF"])?;
        first.run(case.before)?;
        first.close()?;
        setup.flush()?;
    }
    if case.has_leftovers {
        // Between the first write to the database file and the commit.
        let dying = fault(0, Action::Count);
        drop(std::fs::remove_file(&dying.log));
        let mut first = session(&setup, Some(&dying))?;
        first.run(&[
            ".mark arm",
            "BEGIN",
            "UPDATE t SET x=x||'dead' WHERE id%20=7",
            "COMMIT",
        ])?;
        first.close()?;
        // The base is the state that the death goes back to.
        setup.flush()?;
        let calls = dying.calls()?;
        let write = |call: &Call| call.name == "pwrite64" && call.path.ends_with("main.db");
        let last = calls.iter().rposition(write).context("it wrote")?;
        std::fs::remove_file(&dying.log)?;
        let mut first = session(&setup, Some(&fault(last + 1, Action::Kill)))?;
        ensure!(
            first
                .run(&[
                    ".mark arm",
                    "BEGIN",
                    "UPDATE t SET x=x||'dead' WHERE id%20=7",
                    "COMMIT"
                ])
                .is_err()
        );
        std::fs::remove_file(&dying.log)?;
    }
    let fault = fault(at, action);
    let mut writer = session(&setup, Some(&fault))?;
    writer.run(case.prelude)?;
    if case.is_sealed {
        setup.flush()?;
    }
    writer.run(&[".mark arm"])?;
    let is_answered = writer.run(case.transaction).is_ok();
    let is_over = is_answered && writer.run(&[".mark disarm"]).is_ok() && writer.close().is_ok();
    ensure!(
        is_over == (action == Action::Count),
        "the writer ended otherwise than it should"
    );
    Ok(Died {
        setup,
        fault,
        is_answered,
    })
}

/// Number of the call that commits: the last change of the journal.
fn commit_point(calls: &[Call]) -> Option<usize> {
    let commits = |call: &Call| {
        call.path.ends_with("-journal")
            && ["unlink", "ftruncate", "pwrite64"].contains(&&*call.name)
    };
    calls.iter().rposition(commits).map(|at| at + 1)
}

fn every_point(case: &Case) -> Result<()> {
    let whole = die(case, 0, Action::Count)?;
    let calls = whole.fault.calls()?;
    let mut before = case.before.to_vec();
    if case.has_leftovers {
        // As a writer that died before its commit leaves it: the leftover updates were committed once, and then rolled back.
        before.push("UPDATE t SET x=x||'dead' WHERE id%20=7");
    }
    let reference = Reference::of(&whole.setup, &before, case.prelude, case.transaction)?;
    let commit = commit_point(&calls);
    let is_change = reference.old != reference.new;
    each_point(case.name, calls.len(), |at| {
        let died = die(case, at, Action::Kill)?;
        let setup = &died.setup;
        let of_published = |what: &str| -> Result<()> {
            let Some(file) = published(setup)? else {
                return Ok(());
            };
            if content(&file)? == reference.base {
                return Ok(());
            }
            reference
                .state(&file)
                .with_context(|| what.to_owned())
                .map(drop)
        };
        // Whoever comes first: the copier, or an opener.
        if at % 2 == 0 {
            flush_is_honest(setup)?;
            of_published("what the flush after the death published")?;
        }
        let mut next = session(setup, None)?;
        next.row("SELECT count(*) FROM sqlite_schema")?;
        let state = reference.state(&setup.database())?;
        let legal = if commit.is_some_and(|commit| at > commit) || died.is_answered {
            State::New
        } else {
            State::Old
        };
        ensure!(
            !is_change || state == legal,
            "the state is {state:?}, stock SQLite's {legal:?}"
        );
        // The next commit's record must not hide what the dead one's would have held.
        if at % 4 != 1 {
            setup.flush()?;
            is_published(setup).context("after the recovery")?;
            of_published("after the recovery")?;
        }
        if at % 4 < 2 {
            next.run(&[
                "CREATE TABLE IF NOT EXISTS next(x)",
                "INSERT INTO next VALUES(1)",
            ])?;
            let done = flush(setup)?.ok()?;
            drop(done);
            is_published(setup).context("after the next commit")?;
        }
        next.close().map(drop)
    })
    .map(drop)
}

fn cases(group: usize) -> Result<()> {
    let _limit = watchdog::limit("writer_points", 600);
    CASES[group].iter().try_for_each(every_point)
}

#[test]
fn a_writer_killed_at_any_call_of_a_commit_leaves_what_stock_sqlite_leaves() -> Result<()> {
    cases(0)
}

#[test]
fn the_same_for_first_generations_leftovers_and_exclusive_mode() -> Result<()> {
    cases(1)
}

#[test]
fn the_same_for_transactions_that_spill() -> Result<()> {
    cases(2)
}

#[test]
fn the_same_for_transactions_that_shrink_the_file() -> Result<()> {
    cases(3)
}
