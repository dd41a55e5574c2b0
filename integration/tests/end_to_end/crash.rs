//! `kill -9` of the writer at a hundred random moments: the next start repairs, the final flush equals the database, and
//! nothing that was published in between was anything but a committed state.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use verneuil_integration::session::Program;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::state::{check_state, same_bytes};
use verneuil_integration::watch::{Watch, save_all};
use verneuil_integration::workload::Random;
use verneuil_integration::{paths, process, watchdog};

const KILLS: u64 = 100;

#[test]
fn a_writer_killed_at_a_hundred_random_moments_loses_nothing() -> Result<()> {
    let _limit = watchdog::limit("crash", 300);
    let setup = Setup::new(Kind::Directory)?;
    let watch = Watch::start(&setup.manifest_file(&setup.database())?)?;
    let mut random = Random::new(2);
    let mut committed = 0;
    let mut interrupted = 0;
    for kill in 0..KILLS {
        let after = Duration::from_micros(random.below(250_000));
        let life = live_and_die(&setup, kill, after)?;
        if let Some(found) = life.found {
            ensure!(
                found >= committed,
                "kill {kill}: transaction {committed} had committed, {found} was found"
            );
        }
        committed = committed.max(life.last.unwrap_or(0));
        interrupted += u64::from(hot_journal(&setup.database()));
        if kill % 10 == 9 {
            flush_is_honest(&setup)?;
        }
    }
    eprintln!(
        "{committed} transactions committed, {interrupted} of {KILLS} kills left a hot journal"
    );
    ensure!(
        committed > KILLS,
        "the writers hardly lived: {committed} transactions"
    );

    // One more start repairs, whatever the last kill left.
    let mut source = setup.writer(Program::Shell)?;
    let state: u64 = source.row("SELECT tx FROM head")?.parse()?;
    ensure!(
        state >= committed,
        "transaction {committed} had committed, {state} is there"
    );
    setup.flush()?;
    setup.restored_equals_source()?;
    ensure!(check_state(&setup.path("restored.db"))? == state);
    source.close()?;

    let files = save_all(&watch.finish()?, &setup.path("manifests"))?;
    let out = setup.path("one.db");
    let mut last = 0;
    for (generation, manifest) in &files {
        setup.restore_manifest(manifest, &out)?;
        let state = check_state(&out).with_context(|| format!("generation {generation}"))?;
        ensure!(
            state >= last,
            "generation {generation} went from transaction {last} back to {state}"
        );
        last = state;
    }
    eprintln!(
        "{} manifests restored, each to one committed state",
        files.len()
    );
    Ok(())
}

struct Life {
    /// The last transaction that the writer found when it started.
    found: Option<u64>,
    /// The last one that it saw committed.
    last: Option<u64>,
}

fn live_and_die(setup: &Setup, seed: u64, after: Duration) -> Result<Life> {
    let mut command = process::tied(paths::bundled_sqlite()?);
    command.args(["write-until-killed", &setup.uri(&setup.database())]);
    command.arg(paths::extension()?).arg(seed.to_string());
    command
        .envs(setup.env())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("could not start a writer")?;
    std::thread::sleep(after);
    let early = child.try_wait()?;
    process::kill(&mut child);
    let mut said = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        std::io::Read::read_to_string(&mut pipe, &mut said)?;
    }
    ensure!(
        early.is_none(),
        "the writer ended by itself ({early:?}): {said}"
    );
    let output = child.stdout.take().context("no pipe")?;
    let numbers: Vec<u64> = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.parse().ok())
        .collect();
    Ok(Life {
        found: numbers.first().copied(),
        last: numbers.last().copied(),
    })
}

fn hot_journal(database: &Path) -> bool {
    let journal = format!("{}-journal", database.display());
    std::fs::read(journal).is_ok_and(|bytes| bytes.first().is_some_and(|first| *first != 0))
}

/// Right after a kill, with nobody there to recover: either flush uploads what the file holds, or it says why it can't.
fn flush_is_honest(setup: &Setup) -> Result<()> {
    let hot = hot_journal(&setup.database());
    let done = setup.ctl(&["flush", &setup.spool().to_string_lossy()])?;
    if done.status.success() {
        ensure!(!hot, "flush succeeded beside a hot journal");
        let out = setup.path("honest.db");
        setup.restore(&setup.database(), &out)?;
        return same_bytes(&setup.database(), &out);
    }
    ensure!(hot, "flush failed without a hot journal: {}", done.stderr);
    ensure!(
        done.stderr.contains("journal"),
        "flush does not name the hot journal: {}",
        done.stderr
    );
    Ok(())
}
