//! Several processes on one database, some of them with stock SQLite: the books tell that each version is one committed state,
//! whoever wrote it, and what a foreigner wrote arrives without anyone reopening.

use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use verneuil_integration::ledger::{Ledger, open_books};
use verneuil_integration::process::{self, until};
use verneuil_integration::session::{Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::{paths, watchdog};

use crate::support::{
    books_of_source, every_version_is_committed, is_equal, last_entry, stock, watched,
};

/// Transactions of all processes of a run together.
const TRANSACTIONS: u64 = 1_000;

/// How many times all of them pause at once: while a foreigner commits without a gap, nothing can be read that is published.
const PAUSES: u64 = 20;
const PAUSE: Duration = Duration::from_millis(300);

/// A run with fewer versions than this has not shown much.
const VERSIONS_MIN: usize = 10;

/// After a foreign writer's pause its last commit is in the store within this time.
const FOREIGN_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn two_processes_of_ours_each_version_is_a_committed_state() -> Result<()> {
    together(&[Program::Rusqlite, Program::Python], 0)
}

#[test]
fn two_processes_one_of_them_stock_each_version_is_a_committed_state() -> Result<()> {
    together(&[Program::Shell], 1)
}

#[test]
fn four_processes_one_of_them_stock_each_version_is_a_committed_state() -> Result<()> {
    together(&[Program::Rusqlite, Program::Shell, Program::Python], 1)
}

fn together(ours: &[Program], foreign: u64) -> Result<()> {
    let _limit = watchdog::limit("together", 300);
    let (setup, watch) = watched()?;
    let mut sessions: Vec<(u64, Session)> = Vec::new();
    for program in ours {
        let process = sessions.len() as u64 + 1;
        sessions.push((process, setup.writer(*program)?));
    }
    let first = sessions.first_mut().context("at least one is ours")?;
    first.1.run(&open_books("main"))?;
    for _ in 0..foreign {
        let process = sessions.len() as u64 + 1;
        sessions.push((process, stock(Program::Python, &setup.database())?));
    }
    let each = TRANSACTIONS / sessions.len() as u64;
    let together = Barrier::new(sessions.len());
    let write = |process: u64, mut session: Session| -> Result<Session> {
        let mut ledger = Ledger::new(process);
        let mut done = Ok(());
        for pause in 1..=PAUSES {
            // One that has failed goes on to the barriers, so that the others end.
            while done.is_ok() && ledger.entered() < each * pause / PAUSES {
                done = session.run(&ledger.step());
            }
            together.wait();
            std::thread::sleep(PAUSE);
        }
        done.with_context(|| format!("process {process}"))?;
        Ok(session)
    };
    let sessions = std::thread::scope(|scope| -> Result<Vec<Session>> {
        let writing: Vec<_> = sessions
            .drain(..)
            .map(|(process, session)| {
                let write = &write;
                scope.spawn(move || write(process, session))
            })
            .collect();
        let mut sessions = Vec::new();
        for thread in writing {
            let session = thread.join().map_err(|_| anyhow!("a writer panicked"))?;
            sessions.push(session?);
        }
        Ok(sessions)
    })?;
    // Nobody flushes, nobody reopens.
    until("all of it arrives", FOREIGN_LIMIT, || {
        is_equal(&setup, &setup.database())
    })?;
    setup.flush()?;
    for session in sessions {
        session.close()?;
    }
    let books = books_of_source(&setup)?;
    ensure!(
        books.entered.values().all(|n| *n == each),
        "a commit was lost: {books:?}"
    );
    setup.flush()?;
    setup.restored_equals_source()?;
    let shown = every_version_is_committed(&setup, watch, last_entry)?;
    ensure!(
        shown.last == books.last,
        "the last version holds {}",
        shown.last
    );
    ensure!(
        shown.versions >= VERSIONS_MIN,
        "only {} versions",
        shown.versions
    );
    Ok(())
}

#[test]
fn a_last_foreign_write_arrives_within_ten_seconds_without_anyone_reopening() -> Result<()> {
    let _limit = watchdog::limit("foreign", 200);
    let (setup, watch) = watched()?;
    let mut ours = setup.writer(Program::Python)?;
    ours.run(&open_books("main"))?;
    let mut foreigner = stock(Program::Python, &setup.database())?;
    let mut ledger = Ledger::new(7);
    for round in 0..5 {
        for _ in 0..20 {
            foreigner.run(&ledger.step())?;
        }
        match round {
            2 => foreigner.run(&["VACUUM"])?,
            3 => {
                // A long transaction that spills, and then a commit.
                foreigner.run(&["PRAGMA cache_size=4", "BEGIN IMMEDIATE"])?;
                foreigner.run(&ledger.entry("main"))?;
                let before = std::fs::read(setup.database())?;
                foreigner.run(&[
                    "UPDATE cells SET body='x'||body",
                    "UPDATE cells SET body=substr(body,2)",
                ])?;
                ensure!(std::fs::read(setup.database())? != before, "no spill");
                std::thread::sleep(Duration::from_secs(2));
                foreigner.run(&["COMMIT", "PRAGMA cache_size=-2000"])?;
            }
            4 => foreigner.run(&["PRAGMA journal_mode=PERSIST", "CREATE TABLE more(x)"])?,
            _ => {}
        }
        let begin = std::time::Instant::now();
        until("the foreign commits arrive", FOREIGN_LIMIT, || {
            is_equal(&setup, &setup.database())
        })
        .with_context(|| format!("round {round}"))?;
        eprintln!("round {round}: arrived after {:?}", begin.elapsed());
    }
    // The idle connection of ours is a good one still.
    ensure!(ours.row("SELECT seq FROM head")? == ledger.entered().to_string());
    ensure!(ours.row("PRAGMA verneuil_flush_replication_data")? == "1");
    ours.close()?;
    foreigner.close()?;
    let shown = every_version_is_committed(&setup, watch, last_entry)?;
    ensure!(shown.last == ledger.entered());
    Ok(())
}

/// SQLite does not journal free pages: what a transaction has spilled into them stays when it is rolled back, under the old change counter.
#[test]
fn what_a_foreign_rollback_leaves_in_free_pages_spoils_no_version() -> Result<()> {
    let _limit = watchdog::limit("foreign_rollback", 200);
    let (setup, watch) = watched()?;
    let mut ours = setup.writer(Program::Rusqlite)?;
    ours.run(&open_books("main"))?;
    ours.run(&[
        "CREATE TABLE room(x)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60) INSERT INTO room SELECT randomblob(3000) FROM n",
        "DELETE FROM room WHERE rowid%2",
    ])?;
    let mut foreigner = stock(Program::Python, &setup.database())?;
    foreigner.run(&["PRAGMA cache_size=3"])?;
    let mut ledger = Ledger::new(1);
    for round in 0..10 {
        ours.run(&ledger.step())?;
        setup.flush()?;
        let before = std::fs::read(setup.database())?;
        foreigner.run(&[
            "BEGIN IMMEDIATE",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20) INSERT INTO room SELECT randomblob(3000) FROM n",
            "ROLLBACK",
        ])?;
        let after = std::fs::read(setup.database())?;
        ensure!(before.len() == after.len() && before != after, "no spill");
        ours.run(&ledger.step())?;
        setup.flush().with_context(|| format!("round {round}"))?;
    }
    ours.close()?;
    foreigner.close()?;
    let shown = every_version_is_committed(&setup, watch, last_entry)?;
    ensure!(shown.last == ledger.entered());
    Ok(())
}

#[test]
fn a_flush_knows_a_foreign_commit_that_nobody_has_noticed_yet() -> Result<()> {
    let _limit = watchdog::limit("foreign_flush", 200);
    let (setup, watch) = watched()?;
    let mut ours = setup.writer(Program::Shell)?;
    ours.run(&open_books("main"))?;
    let mut foreigner = stock(Program::Python, &setup.database())?;
    let mut ledger = Ledger::new(3);
    for round in 0..10 {
        foreigner.run(&ledger.step())?;
        if round % 2 == 0 {
            setup.flush()?;
        } else {
            ensure!(ours.row("PRAGMA verneuil_flush_replication_data")? == "1");
        }
        is_equal(&setup, &setup.database()).with_context(|| format!("round {round}"))?;
    }
    ours.close()?;
    foreigner.close()?;
    let shown = every_version_is_committed(&setup, watch, last_entry)?;
    ensure!(shown.last == ledger.entered());
    Ok(())
}

#[test]
fn two_sqlite_libraries_in_one_process_write_one_database() -> Result<()> {
    let _limit = watchdog::limit("two_libraries", 200);
    let setup = Setup::new(Kind::Directory)?;
    let scratch = tempfile::tempdir()?;
    let mut python = process::tied(paths::python()?);
    python.args(["-c", include_str!("../../programs/two_libraries.py")]);
    python
        .arg(paths::extension()?)
        .arg(setup.database())
        .arg(scratch.path())
        .arg("200")
        .envs(setup.env());
    process::run(&mut python, Duration::from_secs(120))?.ok()?;
    is_equal(&setup, &setup.database())
}
