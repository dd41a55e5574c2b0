//! Standard streams and broken connections: a host that runs as a daemon has closed its descriptors 0 to 2, and whatever gets their numbers
//! gets its next `printf`; and a host that does not ignore SIGPIPE must not be killed by one of ours.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use verneuil_integration::setup::{Kind, Setup, Target};
use verneuil_integration::watchdog;

use crate::hole::Hole;
use crate::host::{Host, Program};
use crate::libraries::Sqlite;
use crate::probe::descriptors;

const CREATE: &str = "sql CREATE TABLE t(who INTEGER, body BLOB)";
/// Sorts more than the cache holds: a temporary file.
const SORT: &str = "sql PRAGMA cache_size=4; PRAGMA temp_store=FILE; INSERT INTO t SELECT 5, randomblob(500) FROM t, t LIMIT 4000; \
    CREATE INDEX i ON t(body); DROP INDEX i";

/// Nothing but /dev/null is ever on a standard stream.
fn are_free(host: &Host) -> Result<()> {
    for (fd, descriptor) in descriptors(host)?.range(0..=2) {
        ensure!(
            descriptor.file == "/dev/null",
            "descriptor {fd} is {}",
            descriptor.file
        );
    }
    Ok(())
}

fn are_free_for(host: &Host, time: Duration) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        are_free(host)?;
    }
    Ok(())
}

#[test]
fn no_file_and_no_connection_takes_the_place_of_a_standard_stream_that_was_closed_at_the_load()
-> Result<()> {
    let _limit = watchdog::limit("streams", 100);
    for hangs in [false, true] {
        let setup = Setup::new(Kind::Directory)?;
        let mut hole = Hole::open()?;
        let config = if hangs {
            hole.config(&setup)?
        } else {
            setup.config()
        };
        let mut host = Host::start_with(Program::C(Sqlite::System), &setup, &config)?;
        for command in ["close_streams", "load", "open", CREATE] {
            host.ask(command)?;
            are_free(&host)?;
        }
        host.ask("threads 2")?;
        if hangs {
            hole.is_asked()?;
        }
        are_free_for(&host, Duration::from_millis(400))?;
        host.ask("join")?;
        host.tell(SORT)?;
        are_free_for(&host, Duration::from_millis(200))?;
        host.answer()?;
        are_free(&host)?;
        host.finish()?;
        setup.flush()?;
        setup.restored_equals_source()?;
    }
    Ok(())
}

#[test]
fn no_connection_takes_the_place_of_a_standard_stream_that_was_closed_during_a_publication()
-> Result<()> {
    let _limit = watchdog::limit("streams", 100);
    let setup = Setup::new(Kind::Directory)?;
    let mut hole = Hole::open()?;
    let mut host = Host::start_with(Program::C(Sqlite::System), &setup, &hole.config(&setup)?)?;
    host.ask_all(&["load", "open", CREATE])?;
    hole.is_asked()?;
    host.ask("close_streams")?;
    // The same publication goes on, over another connection.
    hole.hang_up();
    hole.is_asked()?;
    are_free(&host)?;
    host.finish()
}

#[test]
fn connections_that_break_raise_no_sigpipe() -> Result<()> {
    let _limit = watchdog::limit("sigpipe", 100);
    let setup = Setup::new(Kind::S3)?;
    let Target::S3 { proxy, .. } = setup.target() else {
        bail!("an S3 store has a line to it");
    };
    // Unlike Python and PHP, this program leaves SIGPIPE as it is: it ends the process.
    let mut host = Host::start(Program::C(Sqlite::System), &setup)?;
    host.ask_all(&["load", "open", CREATE, "threads 2"])?;
    for _ in 0..15 {
        std::thread::sleep(Duration::from_millis(50));
        proxy.cut();
        std::thread::sleep(Duration::from_millis(10));
        proxy.mend();
    }
    host.ask("join")?;
    ensure!(
        host.ask("sql PRAGMA verneuil_flush_replication_data")? == "1",
        "no flush"
    );
    host.tell("exit")?;
    let (status, _) = host.ends(Duration::from_secs(10))?;
    ensure!(
        status.success(),
        "ended with {status}: {}",
        host.complaints()
    );
    setup.restored_equals_source()
}
