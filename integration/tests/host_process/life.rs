//! The whole life of a host: load, open, write, fork, write on both sides, start programs, close, exit. Nothing of the host's own has
//! changed at any point of it, and all that was committed is in the store.

use std::time::Duration;

use anyhow::{Result, ensure};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;

use crate::host::{Host, Program};
use crate::libraries::Sqlite;
use crate::probe::{Probe, descriptors, inherits_nothing_new, threads_that_block_all_signals};

/// Rows that one life inserts: two before the forks, one by each of five children, one after.
const ROWS: &str = "8";

fn life(program: Program) -> Result<()> {
    let _limit = watchdog::limit("life", 100);
    let setup = Setup::new(Kind::Directory)?;
    let mut host = Host::start(program, &setup)?;
    if let Program::C(sqlite) = program {
        let version = host.ask("version")?;
        ensure!(sqlite.is_version(&version), "{sqlite:?} is {version}");
    }
    let before = Probe::take(&mut host)?;
    let inherited_before = started_program_sees(&setup, &mut host)?;
    let descriptors_before = descriptors(&host)?;

    host.ask("load")?;
    before.is_still(&mut host, "loaded")?;
    host.ask("open")?;
    host.ask("sql CREATE TABLE t(who INTEGER, body BLOB)")?;
    host.ask("sql INSERT INTO t VALUES(0, randomblob(100000))")?;
    host.ask("sql INSERT INTO t VALUES(0, randomblob(1000))")?;
    before.is_still(&mut host, "written")?;
    ensure!(threads_that_block_all_signals(&host)? > 0, "nobody copies");

    let insert = "open ;; sql INSERT INTO t VALUES(1, randomblob(1000))";
    for end in ["close", "exit", "_exit", "term", "exec true"] {
        host.ask(&format!("fork {insert} ;; {end}"))?;
    }
    host.ask("sql INSERT INTO t VALUES(2, randomblob(1000))")?;
    let ended = host.ask("reap")?;
    // PHP knows no abrupt end but this.
    let is_php = matches!(program, Program::PhpPdo | Program::PhpSqlite3);
    let abrupt = if is_php { -9 } else { 0 };
    ensure!(
        ended == format!("0,0,{abrupt},-15,0"),
        "the children ended with {ended}"
    );
    ensure!(
        host.ask("sql SELECT count(*) FROM t")? == ROWS,
        "rows are missing"
    );
    before.is_still(&mut host, "forked")?;

    inherits_nothing_new(&host, &descriptors_before)?;
    let inherited = started_program_sees(&setup, &mut host)?;
    ensure!(
        inherited == inherited_before,
        "a started program inherits {inherited:?}, without the extension {inherited_before:?}"
    );

    ensure!(
        host.ask("sql PRAGMA verneuil_flush_replication_data")? == "1",
        "no flush"
    );
    host.ask("close")?;
    before.is_still(&mut host, "closed")?;
    threads_that_block_all_signals(&host)?;
    host.finish()?;
    setup.flush()?;
    setup.restored_equals_source()
}

/// The descriptors of a program that the host starts by fork and exec, with a connection of the child's own open at that time.
fn started_program_sees(setup: &Setup, host: &mut Host) -> Result<Vec<String>> {
    let list = setup.path("descriptors");
    host.ask(&format!(
        "fork exec ls -l /proc/self/fd >{}",
        list.display()
    ))?;
    ensure!(host.ask("reap")? == "0", "ls failed");
    let text = std::fs::read_to_string(list)?;
    // The two of ls itself: its output, and the folder it reads.
    let mut seen: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(" -> ").map(|(_, file)| file.to_owned()))
        .filter(|file| !file.starts_with("/proc/") && !file.ends_with("/descriptors"))
        .collect();
    seen.sort();
    Ok(seen)
}

#[test]
fn python_keeps_what_is_its_own() -> Result<()> {
    life(Program::Python)
}

#[test]
fn php_with_sqlite3_keeps_what_is_its_own() -> Result<()> {
    life(Program::PhpSqlite3)
}

#[test]
fn php_with_pdo_keeps_what_is_its_own() -> Result<()> {
    life(Program::PhpPdo)
}

#[test]
fn a_c_program_with_the_systems_sqlite_keeps_what_is_its_own() -> Result<()> {
    life(Program::C(Sqlite::System))
}

#[test]
fn a_c_program_with_sqlite_3_31_keeps_what_is_its_own() -> Result<()> {
    life(Program::C(Sqlite::Oldest))
}

#[test]
fn a_c_program_with_a_multi_thread_sqlite_keeps_what_is_its_own() -> Result<()> {
    life(Program::C(Sqlite::MultiThread))
}

/// One for the network, and up to four that read and compress: they are started when there is work, and stay.
const COPIER_THREADS_MAX: usize = 5;

#[test]
fn a_thousand_connections_leave_no_descriptor_and_no_thread() -> Result<()> {
    let _limit = watchdog::limit("cycles", 100);
    let setup = Setup::new(Kind::Directory)?;
    let mut host = Host::start(Program::C(Sqlite::System), &setup)?;
    host.ask_all(&[
        "load",
        "open",
        "sql CREATE TABLE t(who INTEGER, body BLOB)",
        "close",
    ])?;
    let mut counts = Vec::new();
    for _ in 0..4 {
        host.ask("cycles 250")?;
        // What is pending is in the store, and its files are closed, as soon as nobody has the database open.
        setup.flush()?;
        std::thread::sleep(Duration::from_millis(300));
        counts.push((
            descriptors(&host)?.len(),
            threads_that_block_all_signals(&host)?,
        ));
    }
    let (first, last) = (counts[0], counts[3]);
    ensure!(
        last.0 <= first.0 && last.1 <= COPIER_THREADS_MAX,
        "descriptors and threads: {counts:?}"
    );
    host.finish()
}
