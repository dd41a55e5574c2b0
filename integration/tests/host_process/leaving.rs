//! A host that ends, in every way there is, while data is on its way: at once, or after a clean exit's drain; nothing that was committed is
//! lost, and nothing crashes on the way out.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;

use crate::hole::Hole;
use crate::host::{Host, Program};
use crate::libraries::Sqlite;

/// `copier.drain_on_close_ms` here.
const DRAIN: Duration = Duration::from_millis(500);
/// What an exit may take beside the drain, on a machine that has other work.
const SLACK: Duration = Duration::from_secs(2);

const CREATE: &str = "sql CREATE TABLE IF NOT EXISTS t(who INTEGER, body BLOB)";
const INSERT: &str = "sql INSERT INTO t VALUES(1, randomblob(100000))";

/// Each end in turn, with the store in the middle of a request that it never answers.
fn ends_in_time(program: Program) -> Result<()> {
    let _limit = watchdog::limit("leaving", 100);
    let is_php = matches!(program, Program::PhpSqlite3 | Program::PhpPdo);
    for (how, limit, code, signal) in [
        ("exit", DRAIN + SLACK, Some(0), None),
        ("_exit", SLACK, (!is_php).then_some(0), is_php.then_some(9)),
        ("term", SLACK, None, Some(15)),
        ("exec exit 7", SLACK, Some(7), None),
    ] {
        let setup = Setup::new(Kind::Directory)?;
        let mut hole = Hole::open()?;
        let mut config = hole.config(&setup)?;
        config["copier"]["drain_on_close_ms"] = json!(DRAIN.as_millis() as u64);
        let mut host = Host::start_with(program, &setup, &config)?;
        host.ask_all(&["load", "open", CREATE])?;
        hole.is_asked()?;
        host.ask(INSERT)?;
        host.tell(how)?;
        let (status, _) = host.ends(limit)?;
        ensure!(
            (status.code(), status.signal()) == (code, signal),
            "{how} ended with {status}: {}",
            host.complaints()
        );
        // What could not be uploaded is in the spool.
        setup.flush()?;
        setup.restored_equals_source()?;
    }
    Ok(())
}

#[test]
fn python_ends_in_time_while_the_store_hangs() -> Result<()> {
    ends_in_time(Program::Python)
}

#[test]
fn php_with_sqlite3_ends_in_time_while_the_store_hangs() -> Result<()> {
    ends_in_time(Program::PhpSqlite3)
}

#[test]
fn php_with_pdo_ends_in_time_while_the_store_hangs() -> Result<()> {
    ends_in_time(Program::PhpPdo)
}

#[test]
fn c_programs_end_in_time_while_the_store_hangs() -> Result<()> {
    Sqlite::ALL
        .into_iter()
        .try_for_each(|sqlite| ends_in_time(Program::C(sqlite)))
}

#[test]
fn a_clean_exit_waits_for_what_is_on_its_way() -> Result<()> {
    let _limit = watchdog::limit("drain", 100);
    for program in Program::ALL {
        let setup = Setup::new(Kind::Directory)?;
        let mut config = setup.config();
        // Longer than any upload here takes: it ends as soon as there is nothing to wait for.
        config["copier"]["drain_on_close_ms"] = json!(20_000);
        let mut host = Host::start_with(program, &setup, &config)?;
        host.ask_all(&["load", "open", CREATE, INSERT])?;
        host.tell("exit")?;
        let (status, _) = host.ends(Duration::from_secs(20))?;
        ensure!(status.success(), "{program:?} ended with {status}");
        setup.restored_equals_source()?;
    }
    Ok(())
}

#[test]
fn an_exit_in_the_middle_of_commits_of_other_threads_does_not_crash() -> Result<()> {
    let _limit = watchdog::limit("exit in a storm", 100);
    for sqlite in Sqlite::ALL {
        let setup = Setup::new(Kind::Directory)?;
        for round in 0..4 {
            let mut host = Host::start(Program::C(sqlite), &setup)?;
            host.ask_all(&["load", "open", CREATE, "threads 4", INSERT])?;
            std::thread::sleep(Duration::from_millis(20 * round));
            host.tell("exit")?;
            let (status, _) = host.ends(Duration::from_secs(1) + SLACK)?;
            ensure!(
                status.success(),
                "{sqlite:?} ended with {status}: {}",
                host.complaints()
            );
        }
        // A transaction that was cut short is rolled back by whoever comes next.
        let mut next = Host::start(Program::C(sqlite), &setup)?;
        next.ask_all(&["load", "open", "sql SELECT count(*) FROM t", "close"])?;
        next.finish()?;
        setup.flush()?;
        setup.restored_equals_source()?;
    }
    Ok(())
}

#[test]
fn what_an_exit_handler_commits_after_the_drain_is_not_lost() -> Result<()> {
    let _limit = watchdog::limit("late", 100);
    let setup = Setup::new(Kind::Directory)?;
    let mut host = Host::start(Program::C(Sqlite::System), &setup)?;
    // The handler was registered before the extension was loaded, and is called after what that does.
    host.ask_all(&[
        "load",
        "open",
        CREATE,
        "late INSERT INTO t VALUES(99, NULL)",
    ])?;
    host.tell("exit")?;
    let (status, _) = host.ends(Duration::from_secs(1) + SLACK)?;
    ensure!(
        status.success(),
        "ended with {status}: {}",
        host.complaints()
    );
    let mut next = Host::start(Program::C(Sqlite::System), &setup)?;
    next.ask_all(&["load", "open"])?;
    ensure!(
        next.ask("sql SELECT count(*) FROM t WHERE who=99")? == "1",
        "the row is missing"
    );
    ensure!(
        next.ask("sql PRAGMA verneuil_flush_replication_data")? == "1",
        "no flush"
    );
    next.finish()?;
    setup.restored_equals_source()
}
