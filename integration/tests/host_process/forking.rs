//! A host that forks at the worst moments: while the copier starts, while it waits for a store, while other threads commit. Children work,
//! none hangs, and a child that outlives its parent keeps nothing of it. (What becomes of inherited connections: `write_side/forks`.)

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;

use crate::hole::Hole;
use crate::host::{Host, Program};
use crate::libraries::Sqlite;

const CREATE: &str = "sql CREATE TABLE IF NOT EXISTS t(who INTEGER, body BLOB)";

#[test]
fn a_child_of_a_parent_whose_first_upload_has_just_begun_can_flush() -> Result<()> {
    /// How long after the first commit the fork comes: within the first request to S3, and what the SDK makes once in a process.
    const DELAYS_US: [u64; 14] = [
        0, 0, 100, 200, 300, 400, 600, 800, 1_000, 1_300, 1_600, 2_000, 3_000, 5_000,
    ];
    let _limit = watchdog::limit("early fork", 150);
    let setup = Setup::new(Kind::S3)?;
    for delay_us in DELAYS_US {
        let mut host = Host::start(Program::C(Sqlite::System), &setup)?;
        host.ask_all(&["load", "open", CREATE])?;
        std::thread::sleep(Duration::from_micros(delay_us));
        let work = "open ;; sql INSERT INTO t VALUES(1, randomblob(1000)) ;; sql PRAGMA verneuil_flush_replication_data ;; exit";
        host.ask(&format!("fork {work}"))?;
        let ended = host.ask("reap")?;
        ensure!(
            ended == "0",
            "forked after {delay_us} µs, the child ended with {ended}: {}",
            host.complaints()
        );
        host.finish()?;
    }
    setup.restored_equals_source()
}

#[test]
fn a_child_that_outlives_its_killed_parent_does_not_keep_others_from_copying() -> Result<()> {
    let _limit = watchdog::limit("orphan", 100);
    for program in [Program::Python, Program::PhpPdo, Program::C(Sqlite::System)] {
        let setup = Setup::new(Kind::Directory)?;
        let mut hole = Hole::open()?;
        let mut host = Host::start_with(program, &setup, &hole.config(&setup)?)?;
        host.ask_all(&["load", "open", CREATE])?;
        // From here on the parent is the copier, and waits.
        hole.is_asked()?;
        let child = host.ask("fork sleep 25")?.parse()?;
        host.signal(Signal::SIGKILL)?;
        host.ends(Duration::from_secs(5))?;
        let flushed = setup.flush();
        kill(Pid::from_raw(child), Signal::SIGKILL)?;
        flushed?;
        setup.restored_equals_source()?;
    }
    Ok(())
}

#[test]
fn children_that_are_forked_while_other_threads_commit_do_not_hang() -> Result<()> {
    let _limit = watchdog::limit("fork storm", 150);
    for sqlite in Sqlite::ALL {
        let setup = Setup::new(Kind::Directory)?;
        let mut host = Host::start(Program::C(sqlite), &setup)?;
        host.ask_all(&["load", "open", CREATE, "threads 3"])?;
        let mut expected = Vec::new();
        for _ in 0..4 {
            for (end, code) in [
                ("close", "0"),
                ("exit", "0"),
                ("_exit", "0"),
                ("term", "-15"),
                ("exec true", "0"),
            ] {
                host.ask(&format!(
                    "fork open ;; sql INSERT INTO t VALUES(1, randomblob(3000)) ;; {end}"
                ))?;
                expected.push(code);
            }
            let ended = host.ask("reap")?;
            ensure!(
                ended == expected.join(","),
                "{sqlite:?}: the children ended with {ended}: {}",
                host.complaints()
            );
            expected.clear();
        }
        ensure!(
            host.ask("join")?.parse::<u32>()? > 0,
            "the threads have committed nothing"
        );
        ensure!(
            host.ask("sql SELECT count(*) FROM t WHERE who=1")? == "20",
            "rows of children are missing"
        );
        host.finish()?;
        setup.flush()?;
        setup.restored_equals_source()?;
    }
    Ok(())
}
