//! Many databases under one spool, opened and closed all the time by two processes: everything arrives.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use verneuil_integration::process;
use verneuil_integration::setup::{Kind, Pace, Setup};
use verneuil_integration::{paths, watchdog};

use crate::support::is_equal;

const SECONDS: u64 = 60;

/// Databases of each process; the last ones of the first are the first ones of the second, so that some have two writers.
const DATABASES: u64 = 200;
const SHARED: u64 = 20;

/// In 60 seconds, with an fsync or two for each.
const COMMITS_MIN: u64 = 2_000;

fn start(setup: &Setup, first: u64) -> Result<Child> {
    let mut python = process::tied(paths::python()?);
    python.args(["-c", include_str!("../../programs/many.py")]);
    python.arg(paths::extension()?).arg(setup.path("source"));
    python.args([first, DATABASES, SECONDS].map(|number| number.to_string()));
    python
        .envs(setup.env())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    python.spawn().context("could not start programs/many.py")
}

#[test]
fn two_processes_with_two_hundred_databases_each_lose_nothing_in_a_minute_of_opens_and_closes()
-> Result<()> {
    let _limit = watchdog::limit("many", SECONDS + 240);
    // As it is by default.
    let pace = Pace {
        min_manifest_interval_ms: 1_000,
        ..Pace::default()
    };
    let setup = Setup::with_pace(Kind::Directory, pace)?;
    let mut commits = 0;
    let processes = [start(&setup, 0)?, start(&setup, DATABASES - SHARED)?];
    for child in processes {
        let done = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{}: {errors}", done.status);
        commits += String::from_utf8_lossy(&done.stdout)
            .trim()
            .parse::<u64>()?;
    }
    eprintln!("{commits} commits");
    ensure!(commits >= COMMITS_MIN, "only {commits} commits");
    let begin = Instant::now();
    setup.flush()?;
    eprintln!("the flush took {:?}", begin.elapsed());
    let mut databases = 0;
    for number in 0..2 * DATABASES - SHARED {
        let database = setup.path(&format!("source/{number}.db"));
        if database.exists() {
            is_equal(&setup, &database)?;
            databases += 1;
        }
    }
    eprintln!(
        "{databases} databases, compared after {:?}",
        begin.elapsed()
    );
    ensure!(
        databases * 10 >= (2 * DATABASES - SHARED) * 9,
        "only {databases} databases were ever opened"
    );
    Ok(())
}
