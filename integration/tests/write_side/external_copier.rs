//! `verneuilctl copy SPOOL`: the copier beside the application, which needs no credentials then; and `copier.mode` off.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use verneuil_integration::process::until;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Pace, Setup};
use verneuil_integration::state::check_state;
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

use crate::support::{
    ARRIVAL_LIMIT, ExternalCopier, arrives, env_without_credentials, every_version_is_committed,
    external_writer, is_equal, session_with, stock, utf8, watched, with_mode,
};

/// After a foreign writer's pause its last commit is in the store within this time.
const FOREIGN_LIMIT: Duration = Duration::from_secs(10);

fn commit(source: &mut Session, workload: &mut Workload, transactions: u64) -> Result<()> {
    for _ in 0..transactions {
        source.run(&workload.step())?;
    }
    Ok(())
}

#[test]
fn an_application_without_credentials_is_replicated_by_the_copier_beside_it() -> Result<()> {
    let _limit = watchdog::limit("beside", 200);
    let setup = Setup::new(Kind::S3)?;
    let mut workload = Workload::new(71, WorkloadOptions::default());
    let mut source = external_writer(&setup, Program::Python)?;
    commit(&mut source, &mut workload, 10)?;
    let mut copier = ExternalCopier::start(&setup)?;
    arrives(&setup, ARRIVAL_LIMIT).with_context(|| copier.said())?;
    for _ in 0..5 {
        commit(&mut source, &mut workload, 40)?;
        arrives(&setup, ARRIVAL_LIMIT).with_context(|| copier.said())?;
    }
    // A database that is born while the copier runs.
    let later = setup.path("source/later.db");
    let config = with_mode(&setup, "external");
    let mut second = Session::open(
        Program::Shell,
        &Opening {
            uri: &setup.uri(&later),
            load: true,
            env: &env_without_credentials(&config),
        },
    )?;
    second.run(&["CREATE TABLE t(x)", "INSERT INTO t VALUES(1)"])?;
    until("the new database arrives", ARRIVAL_LIMIT, || {
        is_equal(&setup, &later)
    })
    .with_context(|| copier.said())?;
    // What an application left that is gone.
    commit(&mut source, &mut workload, 40)?;
    source.kill();
    arrives(&setup, ARRIVAL_LIMIT).with_context(|| copier.said())?;
    let complaints = second.close()?;
    ensure!(
        complaints.is_empty(),
        "the application complains: {complaints}"
    );
    copier.is_running()?;
    copier.terminate()
}

#[test]
fn a_flush_in_an_application_asks_the_copier_beside_it_and_fails_when_there_is_none() -> Result<()>
{
    let _limit = watchdog::limit("external_flush", 200);
    let setup = Setup::new(Kind::S3)?;
    let mut workload = Workload::new(72, WorkloadOptions::default());
    let mut source = external_writer(&setup, Program::Python)?;
    let copier = ExternalCopier::start(&setup)?;
    for _ in 0..5 {
        commit(&mut source, &mut workload, 10)?;
        let done = source.row("PRAGMA verneuil_flush_replication_data");
        ensure!(
            done.with_context(|| copier.said())? == "1",
            "the flush did not answer 1"
        );
        is_equal(&setup, &setup.database())?;
    }
    copier.kill()?;
    commit(&mut source, &mut workload, 10)?;
    let begin = Instant::now();
    match source.row("PRAGMA verneuil_flush_replication_data") {
        Ok(answer) => bail!("nobody copies, and the flush answered {answer:?}"),
        Err(error) => eprintln!("after {:?}: {error:#}", begin.elapsed()),
    }
    Ok(())
}

#[test]
fn sigterm_drains() -> Result<()> {
    let _limit = watchdog::limit("sigterm", 200);
    let pace = Pace {
        // So long that what is pending leaves only because it is asked to.
        min_manifest_interval_ms: 60_000,
        ..Pace::default()
    };
    let setup = Setup::with_pace(Kind::Directory, pace)?;
    let mut workload = Workload::new(73, WorkloadOptions::default());
    let mut source = external_writer(&setup, Program::Rusqlite)?;
    commit(&mut source, &mut workload, 10)?;
    let copier = ExternalCopier::start(&setup)?;
    arrives(&setup, ARRIVAL_LIMIT).with_context(|| copier.said())?;
    commit(&mut source, &mut workload, 50)?;
    ensure!(
        is_equal(&setup, &setup.database()).is_err(),
        "nothing was pending"
    );
    copier.terminate()?;
    is_equal(&setup, &setup.database()).context("after SIGTERM")?;
    source.close().map(drop)
}

#[test]
fn a_copier_that_waits_takes_over_from_one_that_is_killed() -> Result<()> {
    let _limit = watchdog::limit("take_over", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(74, WorkloadOptions::default());
    let mut source = external_writer(&setup, Program::Python)?;
    commit(&mut source, &mut workload, 10)?;
    let mut current = ExternalCopier::start(&setup)?;
    for round in 0..6 {
        let next = ExternalCopier::start(&setup)?;
        commit(&mut source, &mut workload, 20)?;
        if round % 2 == 0 {
            current.kill()?;
        } else {
            current.terminate()?;
        }
        commit(&mut source, &mut workload, 20)?;
        arrives(&setup, ARRIVAL_LIMIT)
            .with_context(|| format!("round {round}: {}", next.said()))?;
        current = next;
    }
    current.terminate()?;
    source.close()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}

#[test]
fn a_foreign_commit_arrives_through_the_copier_beside_an_idle_application() -> Result<()> {
    let _limit = watchdog::limit("external_foreign", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(75, WorkloadOptions::default());
    let mut source = external_writer(&setup, Program::Shell)?;
    commit(&mut source, &mut workload, 5)?;
    let copier = ExternalCopier::start(&setup)?;
    arrives(&setup, ARRIVAL_LIMIT).with_context(|| copier.said())?;
    let mut foreigner = stock(Program::Python, &setup.database())?;
    for round in 0..3 {
        if round == 2 {
            // With nobody of ours there at all.
            source.run(&["SELECT 1"])?;
        }
        commit(&mut foreigner, &mut workload, 10)?;
        let after = arrives(&setup, FOREIGN_LIMIT)
            .with_context(|| format!("round {round}: {}", copier.said()))?;
        eprintln!("round {round}: arrived after {after:?}");
    }
    foreigner.close()?;
    source.close()?;
    copier.terminate()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}

#[test]
fn with_the_copier_off_nothing_leaves_until_somebody_flushes() -> Result<()> {
    let _limit = watchdog::limit("off", 200);
    let setup = Setup::new(Kind::Directory)?;
    let config = with_mode(&setup, "off");
    let mut workload = Workload::new(76, WorkloadOptions::default());
    let mut source = session_with(&setup, &config, Program::Rusqlite)?;
    commit(&mut source, &mut workload, 30)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        !setup.manifest_file(&setup.database())?.exists(),
        "something was published although the copier is off"
    );
    setup.flush()?;
    is_equal(&setup, &setup.database())?;
    commit(&mut source, &mut workload, 30)?;
    source.close()?;
    ensure!(
        is_equal(&setup, &setup.database()).is_err(),
        "the end of the process published something although the copier is off"
    );
    setup.flush()?;
    is_equal(&setup, &setup.database())
}

#[test]
fn an_unknown_mode_is_refused_with_its_key() -> Result<()> {
    let setup = Setup::new(Kind::Directory)?;
    let mut config = setup.config();
    config["copier"]["mode"] = json!("sometimes");
    let Err(error) = session_with(&setup, &config, Program::Python) else {
        bail!("it loaded")
    };
    let text = format!("{error:#}");
    ensure!(
        text.contains("mode") && text.contains("sometimes"),
        "{text}"
    );
    let said = setup.ctl_with(
        &setup.config(),
        &["copy", utf8(&setup.path("none").join("spool"))?],
    )?;
    ensure!(
        said.status.code() == Some(1),
        "{}: {}",
        said.status,
        said.stderr
    );
    ensure!(said.stderr.contains("none"), "{}", said.stderr);
    Ok(())
}
