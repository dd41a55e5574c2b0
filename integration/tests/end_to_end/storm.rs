//! Readers under a snapshot that moves all the time: four kinds of readers, each a process of its own, 60 seconds, a new
//! manifest and a refresh every 50 ms.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use verneuil_integration::session::Program;
use verneuil_integration::setup::{Kind, Pace, Setup};
use verneuil_integration::state::STATE_SQL;
use verneuil_integration::workload::{Workload, WorkloadOptions};
use verneuil_integration::{paths, process, watchdog};

const SECONDS: u64 = 60;
const INTERVAL: Duration = Duration::from_millis(50);

/// How many different snapshots the readers must have met.
const ADVANCES_MIN: usize = 500;

#[test]
fn four_kinds_of_readers_see_no_error_and_no_mixture_in_sixty_seconds_of_advances() -> Result<()> {
    let _limit = watchdog::limit("storm", SECONDS + 120);
    let pace = Pace {
        min_manifest_interval_ms: 50,
        ..Pace::default()
    };
    let setup = Setup::with_pace(Kind::Directory, pace)?;
    let mut workload = Workload::new(
        11,
        WorkloadOptions {
            reshape: false,
            bursts: true,
        },
    );
    let mut source = setup.writer(Program::Rusqlite)?;
    for _ in 0..50 {
        source.run(&workload.step())?;
    }
    setup.flush()?;
    let mount = setup.mount(INTERVAL)?;

    let uri = mount.uri(&setup.database());
    let mut readers = Vec::new();
    for mode in ["plain", "tiny", "mmap", "reopen"] {
        readers.push((mode, start_reader(&uri, mode)?));
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writing = scope.spawn(|| -> Result<()> {
            while !ended.load(Ordering::SeqCst) {
                let begin = Instant::now();
                source.run(&workload.step())?;
                // A little faster than manifests may follow each other, so that each interval has something new.
                std::thread::sleep(Duration::from_millis(35).saturating_sub(begin.elapsed()));
            }
            Ok(())
        });
        let results = collect(readers);
        ended.store(true, Ordering::SeqCst);
        let written = writing
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        judge(&results.with_context(|| mount.log())?)?;
        written
    })?;
    source.close()?;
    mount.terminate()
}

fn start_reader(uri: &str, mode: &str) -> Result<Child> {
    let mut command = process::tied(paths::python()?);
    command.args([
        "-c",
        include_str!("../../programs/storm_reader.py"),
        uri,
        mode,
    ]);
    command.args([&SECONDS.to_string(), STATE_SQL]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start a reader")
}

fn collect(readers: Vec<(&'static str, Child)>) -> Result<Vec<(&'static str, Value)>> {
    let mut results = Vec::new();
    for (mode, mut reader) in readers {
        let status = process::wait(&mut reader, Duration::from_secs(SECONDS + 60));
        let mut text = String::new();
        if let Some(mut pipe) = reader.stdout.take() {
            std::io::Read::read_to_string(&mut pipe, &mut text)?;
        }
        ensure!(
            status.with_context(|| mode)?.success(),
            "the reader {mode} failed"
        );
        results.push((
            mode,
            serde_json::from_str(&text).with_context(|| format!("{mode}: {text:?}"))?,
        ));
    }
    Ok(results)
}

fn judge(results: &[(&str, Value)]) -> Result<()> {
    let mut states = BTreeSet::new();
    for (mode, result) in results {
        let own: BTreeSet<u64> = serde_json::from_value(result["states"].clone())?;
        eprintln!(
            "{mode}: {} transactions, {} states",
            result["transactions"],
            own.len()
        );
        let none = Value::Array(Vec::new());
        ensure!(
            result["errors"] == none,
            "{mode} had errors: {}",
            result["errors"]
        );
        ensure!(
            result["mixtures"] == none,
            "{mode} saw mixtures: {}",
            result["mixtures"]
        );
        ensure!(
            result["backwards"] == 0,
            "{mode} went back in time {} times",
            result["backwards"]
        );
        ensure!(own.len() > 50, "{mode} saw only {} states", own.len());
        states.extend(own);
    }
    eprintln!("{} different states in {SECONDS} s", states.len());
    ensure!(
        states.len() >= ADVANCES_MIN,
        "only {} advances in {SECONDS} s",
        states.len()
    );
    Ok(())
}
