//! What users are told: `verneuilctl status`, the pragmas `verneuil_status` and `verneuil_wait`, flush on close, and `sync`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use verneuil_integration::process::until;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup, Target};
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

use crate::support::{is_equal, stock, utf8};

/// How long the last error may take to be known.
const TOLD_LIMIT: Duration = Duration::from_secs(30);

fn away() -> Result<(Setup, String)> {
    let setup = Setup::new(Kind::S3)?;
    let Target::S3 { proxy, .. } = setup.target() else {
        anyhow::bail!("an S3 store was asked for")
    };
    let endpoint = proxy.address().to_string();
    Ok((setup, endpoint))
}

fn cut(setup: &Setup) {
    if let Target::S3 { proxy, .. } = setup.target() {
        proxy.cut();
    }
}

fn mend(setup: &Setup) {
    if let Target::S3 { proxy, .. } = setup.target() {
        proxy.mend();
    }
}

#[test]
fn verneuilctl_status_shows_what_is_pending_and_the_last_error() -> Result<()> {
    let _limit = watchdog::limit("ctl_status", 200);
    let (setup, endpoint) = away()?;
    let spool = setup.spool();
    let status = |json: bool| -> Result<String> {
        let mut arguments = vec!["status", utf8(&spool)?];
        arguments.extend(json.then_some("--json"));
        Ok(setup.ctl(&arguments)?.ok()?.text())
    };
    let name = setup.database();
    let name = utf8(&name)?;
    let mut workload = Workload::new(81, WorkloadOptions::default());
    let mut source = setup.writer(Program::Python)?;
    for _ in 0..10 {
        source.run(&workload.step())?;
    }
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    let calm = status(false)?;
    ensure!(calm.contains(name), "no {name} in {calm}");
    ensure!(!calm.contains(&endpoint), "an error without one: {calm}");

    cut(&setup);
    for _ in 0..10 {
        source.run(&workload.step())?;
    }
    until("the status tells the error", TOLD_LIMIT, || {
        let told = status(false)?;
        ensure!(told.contains(name) && told.contains(&endpoint), "{told}");
        ensure!(told != calm, "it looks as if nothing was pending: {told}");
        let told = status(true)?;
        for document in serde_json::Deserializer::from_str(&told).into_iter::<Value>() {
            document.with_context(|| told.clone())?;
        }
        ensure!(told.contains(name) && told.contains(&endpoint), "{told}");
        Ok(())
    })?;
    mend(&setup);
    setup.flush()?;
    until("the status is calm again", TOLD_LIMIT, || {
        let told = status(false)?;
        ensure!(!told.contains(&endpoint), "{told}");
        Ok(())
    })?;
    // Without an argument: the configuration's spool.
    let told = setup.ctl(&["status"])?.ok()?.text();
    ensure!(told.contains(name), "{told}");
    let said = setup.ctl(&["status", "/none"])?;
    ensure!(said.status.code() == Some(1), "{}", said.status);
    source.close().map(drop)
}

#[test]
fn the_status_pragma_is_one_row_of_json_and_tells_the_last_error() -> Result<()> {
    let _limit = watchdog::limit("pragma_status", 200);
    let (setup, endpoint) = away()?;
    for program in Program::ALL {
        let mut source = setup.writer(program)?;
        let calm = source.rows(&["PRAGMA verneuil_status"])?;
        ensure!(calm.len() == 1, "{program:?}: {calm:?}");
        let parsed: Value = serde_json::from_str(&calm[0]).context(calm[0].clone())?;
        ensure!(parsed.is_object(), "{program:?}: {parsed}");
        source.run(&["CREATE TABLE IF NOT EXISTS t(x)", "INSERT INTO t VALUES(1)"])?;
        ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
        cut(&setup);
        source.run(&["INSERT INTO t VALUES(2)"])?;
        until("the pragma tells the error", TOLD_LIMIT, || {
            let told = source.row("PRAGMA VERNEUIL_STATUS")?;
            let parsed: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
            ensure!(parsed.is_object() && told.contains(&endpoint), "{told}");
            Ok(())
        })?;
        mend(&setup);
        source.close()?;
    }
    Ok(())
}

#[test]
fn the_status_pragma_says_why_a_connection_is_not_replicated() -> Result<()> {
    let _limit = watchdog::limit("unreplicated", 200);
    let setup = Setup::new(Kind::Directory)?;
    let mut source = setup.writer(Program::Python)?;
    source.run(&["CREATE TABLE t(x)"])?;
    for parameter in ["nolock", "immutable"] {
        let uri = format!("{}&{parameter}=1", setup.uri(&setup.database()));
        let mut session = Session::open(
            Program::Python,
            &Opening {
                uri: &uri,
                load: true,
                env: &setup.env(),
            },
        )?;
        let told = session.row("PRAGMA verneuil_status")?;
        let parsed: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        ensure!(parsed.is_object() && told.contains(parameter), "{told}");
        session.close()?;
    }
    source.close().map(drop)
}

#[test]
fn verneuil_wait_returns_when_the_commit_is_in_the_store() -> Result<()> {
    let _limit = watchdog::limit("wait", 200);
    let (setup, _) = away()?;
    let mut workload = Workload::new(82, WorkloadOptions::default());
    let mut source = setup.writer(Program::Rusqlite)?;
    for round in 0..10 {
        for _ in 0..5 {
            source.run(&workload.step())?;
        }
        let answer = source.row("PRAGMA verneuil_wait=20000")?;
        ensure!(answer == "1", "round {round}: it answered {answer:?}");
        is_equal(&setup, &setup.database()).with_context(|| format!("round {round}"))?;
    }
    // With nothing to wait for, it does not.
    let begin = Instant::now();
    source.row("PRAGMA verneuil_wait=20000")?;
    ensure!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    cut(&setup);
    source.run(&workload.step())?;
    let begin = Instant::now();
    match source.row("PRAGMA verneuil_wait=500") {
        Ok(answer) => ensure!(
            answer == "0",
            "the store is away, and it answered {answer:?}"
        ),
        Err(error) => eprintln!("verneuil_wait without a store: {error:#}"),
    }
    ensure!(
        begin.elapsed() >= Duration::from_millis(400) && begin.elapsed() < Duration::from_secs(5),
        "it was to wait for 500 ms and took {:?}",
        begin.elapsed()
    );
    Ok(())
}

#[test]
fn a_connection_that_flushes_on_close_leaves_nothing_behind() -> Result<()> {
    let _limit = watchdog::limit("flush_on_close", 200);
    let setup = Setup::new(Kind::Directory)?;
    for program in Program::ALL {
        let mut source = setup.writer(program)?;
        ensure!(source.row("PRAGMA verneuil_flush_replication_data=on")? == "0");
        ensure!(source.row("PRAGMA verneuil_flush_replication_data=1")? == "1");
        source.run(&[
            "CREATE TABLE IF NOT EXISTS t(x)",
            "INSERT INTO t SELECT randomblob(1000000)",
        ])?;
        source.close()?;
        is_equal(&setup, &setup.database()).with_context(|| format!("{program:?}"))?;
    }
    Ok(())
}

#[test]
fn sync_uploads_a_database_that_nobody_has_open() -> Result<()> {
    let _limit = watchdog::limit("sync", 200);
    let setup = Setup::new(Kind::Directory)?;
    let database = setup.database();
    let mut workload = Workload::new(83, WorkloadOptions::default());
    // Never opened through the extension.
    let mut foreigner = stock(Program::Python, &database)?;
    for round in 0..3 {
        for _ in 0..5 {
            foreigner.run(&workload.step())?;
        }
        setup.ctl(&["sync", utf8(&database)?])?.ok()?;
        is_equal(&setup, &database).with_context(|| format!("round {round}"))?;
    }
    // A writer dies within a transaction that has reached the file: sync recovers it.
    foreigner.run(&[
        "PRAGMA cache_size=4",
        "BEGIN",
        "UPDATE data SET tx=999999999",
        "UPDATE tail SET tx=999999999",
        "INSERT INTO noise(body) VALUES(randomblob(300000))",
    ])?;
    foreigner.kill();
    setup.ctl(&["sync", utf8(&database)?])?.ok()?;
    is_equal(&setup, &database)?;
    ensure!(
        verneuil_integration::state::check_state(&setup.path("equal.db"))? == workload.committed()
    );
    setup.ctl(&["sync", "--optimize", utf8(&database)?])?.ok()?;
    is_equal(&setup, &database)?;
    let said = setup.ctl(&["sync", utf8(&setup.path("none.db"))?])?;
    ensure!(
        said.status.code() == Some(1) && said.stderr.contains("none.db"),
        "{}: {}",
        said.status,
        said.stderr
    );
    Ok(())
}
