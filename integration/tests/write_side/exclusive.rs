//! `locking_mode=EXCLUSIVE`: no unlock follows a commit, and all the same each commit arrives while the lock is held.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use verneuil_integration::process::until;
use verneuil_integration::session::Program;
use verneuil_integration::state::check_state;
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

use crate::support::{every_version_is_committed, is_equal, utf8, watched};

const TRANSACTIONS: u64 = 1_000;

/// A run with fewer versions than this has not shown much.
const VERSIONS_MIN: usize = 20;

#[test]
fn a_thousand_transactions_under_one_exclusive_lock_each_version_is_a_committed_state() -> Result<()>
{
    let _limit = watchdog::limit("exclusive", 300);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(
        21,
        WorkloadOptions {
            reshape: true,
            bursts: true,
        },
    );
    let mut source = setup.writer(Program::Rusqlite)?;
    source.run(&["PRAGMA locking_mode=EXCLUSIVE"])?;
    while workload.committed() < TRANSACTIONS {
        source.run(&workload.step())?;
        let n = workload.committed();
        if n == TRANSACTIONS / 2 {
            // The mode is left only at the next access.
            source.run(&["PRAGMA locking_mode=NORMAL"])?;
            source.row("SELECT count(*) FROM data")?;
            source.run(&workload.step())?;
            source.run(&["PRAGMA locking_mode=EXCLUSIVE"])?;
        }
        if n.is_multiple_of(100) {
            let flushed = source.row("PRAGMA verneuil_flush_replication_data")?;
            ensure!(flushed == "1", "the flush pragma gave {flushed:?}");
            is_equal(&setup, &setup.database())
                .with_context(|| format!("after the flush at {n}"))?;
        }
    }
    // The lock is still held here: nobody else could have begun a transaction.
    source.close()?;
    setup.flush()?;
    setup.restored_equals_source()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(
        shown.last == workload.committed(),
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
fn commits_under_an_exclusive_lock_arrive_by_themselves_and_a_flush_from_elsewhere_knows_them()
-> Result<()> {
    let _limit = watchdog::limit("exclusive_arrival", 200);
    for journal in ["DELETE", "TRUNCATE", "PERSIST"] {
        let (setup, watch) = watched()?;
        let mut workload = Workload::new(22, WorkloadOptions::default());
        let mut source = setup.writer(Program::Python)?;
        source.run(&[
            format!("PRAGMA journal_mode={journal}"),
            "PRAGMA locking_mode=EXCLUSIVE".to_owned(),
        ])?;
        for round in 0..3 {
            for _ in 0..20 {
                source.run(&workload.step())?;
            }
            until(
                "the commits arrive while the lock is held",
                Duration::from_secs(10),
                || is_equal(&setup, &setup.database()),
            )
            .with_context(|| format!("journal_mode={journal}, round {round}"))?;
            for _ in 0..20 {
                source.run(&workload.step())?;
            }
            setup
                .ctl(&["flush", utf8(&setup.spool())?])?
                .ok()
                .with_context(|| {
                    format!("journal_mode={journal}, round {round}: flush from elsewhere")
                })?;
            is_equal(&setup, &setup.database())?;
        }
        source.close()?;
        let shown = every_version_is_committed(&setup, watch, check_state)?;
        ensure!(shown.last == workload.committed());
    }
    Ok(())
}

#[test]
fn a_flush_from_elsewhere_beside_an_open_exclusive_transaction_does_not_say_success_for_it()
-> Result<()> {
    let _limit = watchdog::limit("exclusive_open", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(23, WorkloadOptions::default());
    let mut source = setup.writer(Program::Shell)?;
    source.run(&["PRAGMA locking_mode=EXCLUSIVE"])?;
    for _ in 0..10 {
        source.run(&workload.step())?;
    }
    let committed = workload.committed();
    source.run(&[
        "PRAGMA cache_size=4",
        "BEGIN",
        "UPDATE head SET tx=999999999",
        "UPDATE data SET tx=999999999",
        "UPDATE tail SET tx=999999999",
    ])?;
    let done = setup.ctl(&["flush", utf8(&setup.spool())?])?;
    if done.status.success() {
        let out = setup.path("beside.db");
        setup.restore(&setup.database(), &out)?;
        ensure!(
            check_state(&out)? == committed,
            "flush said success without the last commit"
        );
    } else {
        ensure!(
            !done.stderr.trim().is_empty(),
            "flush failed without a reason"
        );
    }
    source.run(&["ROLLBACK", "PRAGMA cache_size=-2000"])?;
    source.run(&workload.step())?;
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    is_equal(&setup, &setup.database())?;
    source.close()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}
