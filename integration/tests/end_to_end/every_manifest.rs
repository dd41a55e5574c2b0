//! Every manifest that the store ever held restores to one committed state, and the last one to the source; with every
//! sqlite program as writer and as reader of the mount, on both kinds of stores.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use verneuil_integration::process::until;
use verneuil_integration::session::Program;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::state::{STATE_SQL, check_state, whole};
use verneuil_integration::watch::{Watch, save_all};
use verneuil_integration::workload::{Workload, WorkloadOptions};
use verneuil_integration::{session::Session, watchdog};

const TRANSACTIONS: u64 = 1_000;

/// A run with fewer manifests than this has not shown much.
const MANIFESTS_MIN: usize = 60;

#[test]
fn shell_to_directory_every_manifest_is_a_committed_state() -> Result<()> {
    thousand_transactions(Kind::Directory, Program::Shell, Program::Python)
}

#[test]
fn python_to_directory_every_manifest_is_a_committed_state() -> Result<()> {
    thousand_transactions(Kind::Directory, Program::Python, Program::Rusqlite)
}

#[test]
fn rusqlite_to_directory_every_manifest_is_a_committed_state() -> Result<()> {
    thousand_transactions(Kind::Directory, Program::Rusqlite, Program::Shell)
}

#[test]
fn shell_to_s3_the_replica_follows_and_ends_equal() -> Result<()> {
    thousand_transactions(Kind::S3, Program::Shell, Program::Rusqlite)
}

#[test]
fn python_to_s3_the_replica_follows_and_ends_equal() -> Result<()> {
    thousand_transactions(Kind::S3, Program::Python, Program::Shell)
}

#[test]
fn rusqlite_to_s3_the_replica_follows_and_ends_equal() -> Result<()> {
    thousand_transactions(Kind::S3, Program::Rusqlite, Program::Python)
}

fn thousand_transactions(kind: Kind, writer: Program, reader: Program) -> Result<()> {
    let _limit = watchdog::limit("thousand_transactions", 400);
    let setup = Setup::new(kind)?;
    let watch = match kind {
        Kind::Directory => Some(Watch::start(&setup.manifest_file(&setup.database())?)?),
        Kind::S3 => None,
    };
    let options = WorkloadOptions {
        reshape: true,
        bursts: true,
    };
    let mut workload = Workload::new(kind as u64 * 10 + writer as u64, options);

    let mut source = setup.writer(writer)?;
    source.run(&workload.step())?;
    setup.flush()?;
    let mount = setup.mount(Duration::from_millis(50))?;
    let mut replica = setup.reader(reader, &mount)?;
    let mut seen = 0;
    let mut advances = 0;
    while workload.committed() < TRANSACTIONS {
        source.run(&workload.step())?;
        if workload.committed().is_multiple_of(10) {
            let now = look(&mut replica).context(mount.log())?;
            ensure!(
                now >= seen,
                "the replica went from transaction {seen} back to {now}"
            );
            advances += u64::from(now > seen);
            seen = now;
        }
    }
    ensure!(
        advances >= 10,
        "the open reader saw only {advances} new states: the mount does not follow"
    );

    let flushed = source.row("PRAGMA verneuil_flush_replication_data")?;
    ensure!(flushed == "1", "the flush pragma gave {flushed:?}");
    setup.restored_equals_source()?;
    ensure!(
        check_state(&setup.path("restored.db"))? == TRANSACTIONS,
        "the last transaction is missing"
    );
    until(
        "the open reader sees the last transaction",
        Duration::from_secs(20),
        || {
            let now = look(&mut replica)?;
            ensure!(now == TRANSACTIONS, "it sees {now}");
            Ok(())
        },
    )?;
    for program in Program::ALL {
        let mut fresh = setup.reader(program, &mount)?;
        ensure!(
            fresh.row("PRAGMA integrity_check")? == "ok",
            "{program:?} finds the replica damaged"
        );
        ensure!(
            look(&mut fresh)? == TRANSACTIONS,
            "{program:?} sees another state"
        );
        fresh.close()?;
    }
    replica.close()?;
    source.close()?;
    mount.terminate()?;
    if let Some(watch) = watch {
        every_version_is_a_committed_state(&setup, watch)?;
    }
    Ok(())
}

fn look(replica: &mut Session) -> Result<u64> {
    whole(&replica.row(STATE_SQL)?)
}

fn every_version_is_a_committed_state(setup: &Setup, watch: Watch) -> Result<()> {
    let versions = watch.finish()?;
    let files = save_all(&versions, &setup.path("manifests"))?;
    ensure!(
        files.len() >= MANIFESTS_MIN,
        "only {} manifests were published",
        files.len()
    );
    let out = setup.path("one.db");
    let mut last = 0;
    for (generation, manifest) in &files {
        setup.restore_manifest(manifest, &out)?;
        let state = check_state(&out).with_context(|| format!("generation {generation}"))?;
        ensure!(
            state >= last,
            "generation {generation} holds transaction {state}, after one that held {last}"
        );
        last = state;
    }
    ensure!(
        last == TRANSACTIONS,
        "the last manifest holds transaction {last}"
    );
    eprintln!(
        "{} manifests restored, each to one committed state",
        files.len()
    );
    Ok(())
}
