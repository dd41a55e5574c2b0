//! A host that may start no threads, or too few, when it opens a database: it commits, is told that nothing uploads, and all of it arrives after the
//! next connection once it may.

use std::fs;
use std::os::unix::fs::chown;
use std::time::Duration;

use anyhow::{Result, ensure};
use verneuil_integration::process::until;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;

use crate::host::{Host, Program};
use crate::libraries::Sqlite;

/// Threads that it may have beside its own: from none to more than a copier needs at first.
const ALLOWED_MAX: u32 = 5;
/// Its own, the copier's, and those that read, hash and compress.
const THREADS_MAX: usize = 1 + 1 + 4;
const UNLIMITED: u32 = 1_000;
/// A user that nobody is, or his other processes would count.
const USERS: u32 = 60_600;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

const INSERT: &str = "sql INSERT INTO t VALUES(1, randomblob(100000))";

#[test]
fn commits_of_a_host_that_may_start_no_threads_arrive_when_it_may() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become a user who has no other processes");
        return Ok(());
    }
    let _limit = watchdog::limit("refused", 150);
    for allowed in 0..=ALLOWED_MAX {
        let setup = Setup::new(Kind::Directory)?;
        let user = USERS + std::process::id() % 500;
        for folder in ["", "source", "store"] {
            chown(setup.path(folder), Some(user), Some(user))?;
        }
        let mut host = Host::start(Program::C(Sqlite::System), &setup)?;
        host.ask("load")?;
        host.ask(&format!("threads_max {} {user}", 1 + allowed))?;
        host.ask_all(&[
            "open",
            "sql CREATE TABLE t(who INTEGER, body BLOB)",
            INSERT,
            INSERT,
        ])?;
        let has_arrived = || setup.restored_equals_source();
        let is_told = || host.complaints().contains("nothing uploads them");
        until("it is told, or all arrives", ARRIVAL_LIMIT, || {
            ensure!(is_told() || has_arrived().is_ok(), "neither");
            Ok(())
        })?;
        ensure!(allowed > 0 || is_told(), "it can't have started a thread");

        host.ask(&format!("threads_max {UNLIMITED} {user}"))?;
        host.ask_all(&[INSERT, "open", INSERT])?;
        until("all arrives", ARRIVAL_LIMIT, || {
            setup.restored_equals_source()
        })?;
        // And goes on to.
        host.ask(INSERT)?;
        ensure!(
            host.ask("sql PRAGMA verneuil_flush_replication_data")? == "1",
            "no flush"
        );
        setup.restored_equals_source()?;
        let threads = fs::read_dir(format!("/proc/{}/task", host.pid()))?.count();
        ensure!(
            threads <= THREADS_MAX,
            "{threads} threads: attempts that failed have left some"
        );
        host.tell("exit")?;
        let (status, _) = host.ends(ARRIVAL_LIMIT)?;
        ensure!(status.success(), "ended with {status}");
    }
    Ok(())
}
