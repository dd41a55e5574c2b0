//! The store is away: commits go on, flush says what is left and why, and all arrives when the store is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use verneuil_integration::fault::DirectoryAway;
use verneuil_integration::process::until;
use verneuil_integration::session::{Program, Session};
use verneuil_integration::setup::{Kind, Setup, Target};
use verneuil_integration::state::check_state;
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

/// A local transaction has no reason to take this long, not even on a busy disk.
const COMMIT_MAX: Duration = Duration::from_secs(5);

#[test]
fn commits_go_on_while_a_directory_store_is_away_and_arrive_when_it_is_back() -> Result<()> {
    let setup = Setup::new(Kind::Directory)?;
    let Target::Directory(root) = setup.target() else {
        unreachable!("a directory store was asked for")
    };
    let root = root.clone();
    survive(&setup, || DirectoryAway::take(&root), drop)
}

#[test]
fn commits_go_on_while_s3_is_away_and_arrive_when_it_is_back() -> Result<()> {
    let setup = Setup::new(Kind::S3)?;
    let Target::S3 { proxy, .. } = setup.target() else {
        unreachable!("an S3 store was asked for")
    };
    let away = || {
        proxy.cut();
        Ok(())
    };
    survive(&setup, away, |()| proxy.mend())
}

#[test]
fn a_database_that_is_born_while_the_store_is_away_arrives_when_it_is_back() -> Result<()> {
    let _limit = watchdog::limit("born_while_away", 200);
    let setup = Setup::new(Kind::Directory)?;
    let Target::Directory(root) = setup.target() else {
        unreachable!("a directory store was asked for")
    };
    let away = DirectoryAway::take(root)?;
    let mut workload = Workload::new(5, WorkloadOptions::default());
    let mut source = setup.writer(Program::Python)?;
    commit(&mut source, &mut workload, 30)?;
    drop(away);
    arrives(&setup, workload.committed())?;
    source.close().map(drop)
}

#[test]
fn the_flush_pragma_fails_and_says_why_and_the_next_start_brings_everything() -> Result<()> {
    let _limit = watchdog::limit("flush_pragma", 200);
    let setup = Setup::new(Kind::S3)?;
    let Target::S3 { proxy, .. } = setup.target() else {
        unreachable!("an S3 store was asked for")
    };
    let mut workload = Workload::new(9, WorkloadOptions::default());
    for program in Program::ALL {
        let mut source = setup.writer(program)?;
        commit(&mut source, &mut workload, 5)?;
        proxy.cut();
        commit(&mut source, &mut workload, 5)?;
        // The session ends with the error; what it had committed stays pending.
        let Err(error) = source.row("PRAGMA verneuil_flush_replication_data") else {
            anyhow::bail!("{program:?}: the pragma did not fail although the store is away")
        };
        let text = format!("{error:#}");
        let endpoint = proxy.address().to_string();
        ensure!(
            text.contains(&endpoint),
            "{program:?}: no reason in {text:?}"
        );
        proxy.mend();
    }
    let mut source = setup.writer(Program::Python)?;
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    setup.restored_equals_source()?;
    source.close().map(drop)
}

fn survive<Away>(
    setup: &Setup,
    take: impl Fn() -> Result<Away>,
    give_back: impl Fn(Away),
) -> Result<()> {
    let _limit = watchdog::limit("survive", 300);
    let mut workload = Workload::new(3, WorkloadOptions::default());
    let mut source = setup.writer(Program::Rusqlite)?;
    commit(&mut source, &mut workload, 20)?;
    setup.flush()?;
    for round in 0..2 {
        let away = take()?;
        commit(&mut source, &mut workload, 100)?;
        let said = setup
            .ctl(&["flush", &setup.spool().to_string_lossy()])?
            .expect_failure()?;
        let name = setup.database();
        ensure!(
            said.contains(&*name.to_string_lossy()),
            "flush does not name what is left: {said:?}"
        );
        eprintln!("round {round}, flush without a store: {}", said.trim());
        commit(&mut source, &mut workload, 20)?;
        give_back(away);
        // Nobody flushes and nobody reopens: it arrives by itself.
        arrives(setup, workload.committed())?;
    }
    source.close().map(drop)
}

fn commit(source: &mut Session, workload: &mut Workload, transactions: u64) -> Result<()> {
    for _ in 0..transactions {
        let lines = workload.step();
        let begin = Instant::now();
        source.run(&lines).context("while the store is away")?;
        ensure!(
            begin.elapsed() < COMMIT_MAX,
            "a transaction took {:?}",
            begin.elapsed()
        );
    }
    Ok(())
}

fn arrives(setup: &Setup, transaction: u64) -> Result<()> {
    let begin = Instant::now();
    until(
        "the last transaction has arrived",
        Duration::from_secs(90),
        || {
            let out = setup.path("arrived.db");
            setup.restore(&setup.database(), &out)?;
            let state = check_state(&out)?;
            ensure!(state == transaction, "transaction {state} of {transaction}");
            Ok(())
        },
    )?;
    eprintln!("arrived {:?} after the store was back", begin.elapsed());
    setup.restored_equals_source()
}
