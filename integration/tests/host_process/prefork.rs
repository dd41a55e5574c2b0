//! A pre-fork server, as gunicorn, php-fpm and Apache have it: a master that has the database open forks workers, each of which opens it for
//! itself; they write in turn, end in every way there is, and are replaced, while the master goes on.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use verneuil_integration::process::until;
use verneuil_integration::setup::{Kind, Setup, Target};
use verneuil_integration::watchdog;

use crate::host::{Host, Program};
use crate::libraries::Sqlite;
use crate::probe::{Probe, threads_that_block_all_signals};

/// Something is on its way by then.
const UPLOAD_LIMIT: Duration = Duration::from_secs(10);
/// Between two commits of the master.
const MASTER_PAUSE: Duration = Duration::from_millis(20);
/// The drain by default, one second, and what an exit may take beside it on a machine that has other work.
const EXIT_LIMIT: Duration = Duration::from_secs(3);

/// Ends in the middle of a transaction whose pages have reached the file.
const DIES_WRITING: &str = "sql PRAGMA cache_size=4 ;; sql BEGIN IMMEDIATE ;; \
    sql INSERT INTO t SELECT -1, body FROM t LIMIT 40 ;; kill";

fn worker(number: u32, commits: u32, end: &str) -> String {
    format!("fork open ;; sql PRAGMA synchronous=OFF ;; work {number} {commits} ;; {end}")
}

/// Connections of a process.
fn sockets(pid: u32) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile leads nowhere.
        let file = entry.and_then(|entry| fs::read_link(entry.path()));
        found.extend(file.iter().map(|file| file.display().to_string()));
    }
    found.retain(|file| file.starts_with("socket:"));
    Ok(found)
}

fn serve(program: Program) -> Result<()> {
    let _limit = watchdog::limit("prefork", 120);
    let setup = Setup::new(Kind::S3)?;
    let Target::S3 { proxy, .. } = setup.target() else {
        bail!("an S3 store has a line to it");
    };
    let mut master = Host::start(program, &setup)?;
    let before = Probe::take(&mut master)?;
    let insert = "sql INSERT INTO t VALUES(0, randomblob(2000))";
    let flush = "sql PRAGMA verneuil_flush_replication_data";
    master.ask_all(&["load", "open", "sql PRAGMA synchronous=OFF"])?;
    master.ask_all(&["sql CREATE TABLE t(who INTEGER, body BLOB)", insert])?;
    // Its connection to the store is there, and all its children inherit it.
    ensure!(master.ask(flush)? == "1", "no flush");

    proxy.hang();
    let uploader = master.ask(&worker(1, 5, "sleep 25"))?.parse()?;
    until("the first worker uploads", UPLOAD_LIMIT, || {
        let own = sockets(uploader)?;
        let is_connected = own.difference(&sockets(master.pid())?).next().is_some();
        ensure!(is_connected, "no connection");
        Ok(())
    })?;
    master.ask(&worker(2, 60, "exit"))?;
    master.ask(&worker(3, 20, DIES_WRITING))?;
    master.ask(&worker(4, 60, "close"))?;
    for round in 0..60 {
        match round {
            20 => {
                kill(Pid::from_raw(uploader.try_into()?), Signal::SIGTERM)?;
                master.ask(&worker(5, 40, "exit"))?;
            }
            25 => proxy.mend(),
            40 => drop(master.ask(&worker(6, 40, &format!("{flush} ;; exit")))?),
            _ => {}
        }
        master.ask(insert)?;
        std::thread::sleep(MASTER_PAUSE);
    }
    let ended = master.ask("reap")?;
    ensure!(
        ended == "-15,0,-9,0,0,0",
        "the workers ended with {ended}: {}",
        master.complaints()
    );
    let rows = master.ask("sql SELECT group_concat(who || 'x' || n) FROM (SELECT who, count(*) AS n FROM t GROUP BY who ORDER BY who)")?;
    ensure!(
        rows == "0x61,1x5,2x60,3x20,4x60,5x40,6x40",
        "rows by worker: {rows}"
    );
    before.is_still(&mut master, "served")?;
    ensure!(
        threads_that_block_all_signals(&master)? > 0,
        "nobody copies"
    );

    let begun = Instant::now();
    master.finish()?;
    ensure!(
        begun.elapsed() < EXIT_LIMIT,
        "the exit took {:?}",
        begun.elapsed()
    );
    setup.flush()?;
    setup.restored_equals_source()
}

#[test]
fn a_prefork_server_in_python_loses_nothing_when_its_workers_die() -> Result<()> {
    serve(Program::Python)
}

#[test]
fn a_prefork_server_in_php_loses_nothing_when_its_workers_die() -> Result<()> {
    serve(Program::PhpPdo)
}

#[test]
fn a_prefork_server_in_c_with_sqlite_3_31_loses_nothing_when_its_workers_die() -> Result<()> {
    serve(Program::C(Sqlite::Oldest))
}
