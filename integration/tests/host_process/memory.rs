//! valgrind watches a C program from load to exit, with each SQLite: no access that is not its own, nothing lost, nothing decided by what was never written.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::{paths, process, watchdog};

use crate::host::{Host, Program};
use crate::libraries::Sqlite;

/// valgrind's exit status if it has found something.
const FOUND: i32 = 99;
/// It makes everything some fifty times slower.
const LIMIT: Duration = Duration::from_secs(60);

fn is_clean(sqlite: Sqlite) -> Result<()> {
    let _limit = watchdog::limit("valgrind", 180);
    let setup = Setup::new(Kind::Directory)?;
    let mut valgrind = process::tied(paths::system_program("valgrind", "valgrind")?);
    valgrind.args([
        "-q",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
        "--show-leak-kinds=definite",
    ]);
    valgrind.arg(format!("--error-exitcode={FOUND}"));
    let suppressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/valgrind.supp");
    valgrind.arg(format!("--suppressions={}", suppressions.display()));
    let mut host = Host::start_within(valgrind, Program::C(sqlite), &setup)?;
    let version = host.ask("version")?;
    ensure!(sqlite.is_version(&version), "{sqlite:?} is {version}");
    host.ask_all(&[
        "load",
        "open",
        "sql CREATE TABLE t(who INTEGER, body BLOB)",
        "sql INSERT INTO t VALUES(1, randomblob(200000))",
        "sql BEGIN; INSERT INTO t VALUES(2, randomblob(300000)); ROLLBACK",
        "sql PRAGMA cache_size=4; BEGIN; UPDATE t SET body=randomblob(200000); ROLLBACK; PRAGMA cache_size=-2000",
        "sql UPDATE t SET body=randomblob(100)",
        "sql VACUUM",
        "sql PRAGMA verneuil_status",
        "cycles 20",
        "sql PRAGMA locking_mode=EXCLUSIVE",
        "sql INSERT INTO t VALUES(3, randomblob(70000))",
        "sql INSERT INTO t VALUES(3, randomblob(70000))",
        "sql PRAGMA verneuil_flush_replication_data",
        "close",
    ])?;
    host.tell("exit")?;
    let (status, took) = host.ends(LIMIT)?;
    let said = host.complaints();
    ensure!(
        status.success() && said.is_empty(),
        "{status} after {took:?}: {said}"
    );
    setup.restored_equals_source()
}

#[test]
fn valgrind_finds_nothing_from_load_to_exit_with_the_systems_sqlite() -> Result<()> {
    is_clean(Sqlite::System)
}

#[test]
fn valgrind_finds_nothing_from_load_to_exit_with_sqlite_3_31() -> Result<()> {
    is_clean(Sqlite::Oldest)
}

#[test]
fn valgrind_finds_nothing_from_load_to_exit_with_a_multi_thread_sqlite() -> Result<()> {
    is_clean(Sqlite::MultiThread)
}
