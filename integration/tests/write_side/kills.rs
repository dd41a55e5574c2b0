//! `kill -9` of the writer, of the copier and of both, at random moments: what had committed is there, what was published was
//! committed, and the next flush finds everything.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;
use verneuil_integration::ledger::{check_books, open_books};
use verneuil_integration::session::Program;
use verneuil_integration::setup::Setup;
use verneuil_integration::state::{check_state, same_bytes};
use verneuil_integration::watch::Watch;
use verneuil_integration::workload::Random;
use verneuil_integration::{paths, process, watchdog};

use crate::support::{
    ExternalCopier, env_without_credentials, every_version_is_committed, is_equal, last_entry,
    utf8, watched, with_mode,
};

const WRITER_KILLS: u64 = 300;
const PAIR_KILLS: u64 = 60;
const COPIER_KILLS: u64 = 100;
const HOST_KILLS: u64 = 50;
const BOTH_KILLS: u64 = 60;

/// A life of a writer is shorter than this: some do not get beyond loading the extension.
const LIFE_MAX_US: u64 = 220_000;
/// On a slow machine they may be longer, by so much.
const LIFE_FACTOR_MAX: u64 = 5;

/// What the writers do before they begin, by turns: the ways in which a transaction ends differ.
const MANNERS: [&[&str]; 4] = [
    &[],
    &["PRAGMA locking_mode=EXCLUSIVE"],
    &["PRAGMA cache_size=5", "PRAGMA journal_mode=PERSIST"],
    &["PRAGMA journal_mode=TRUNCATE"],
];

/// A writer of `bin/verneuil-test-sqlite.rs`, which tells the number of each transaction that has committed.
pub struct Writer {
    child: Child,
    /// A file, since a pipe that nobody empties would hold a long life up.
    told: NamedTempFile,
}

/// What a writer told.
pub struct Life {
    /// The last transaction that it found when it started.
    found: Option<u64>,
    /// The last one that it saw committed.
    last: Option<u64>,
}

impl Writer {
    pub fn start(mut command: Command) -> Result<Self> {
        let told = NamedTempFile::new()?;
        command
            .stdin(Stdio::null())
            .stdout(told.reopen()?)
            .stderr(Stdio::piped());
        let child = command.spawn().context("could not start a writer")?;
        Ok(Self { child, told })
    }

    /// Kills it after some commits. Says how many microseconds the lives of those after it may take, so that most of them commit, too.
    pub fn first(self) -> Result<(Life, u64)> {
        let begun = Instant::now();
        process::until("a writer commits", Duration::from_secs(60), || {
            let told = std::fs::read_to_string(self.told.path())?;
            ensure!(told.lines().count() > 3, "it told {told:?}");
            Ok(())
        })?;
        let took_us = u64::try_from(begun.elapsed().as_micros())?;
        let life_max = (3 * took_us).clamp(LIFE_MAX_US, LIFE_FACTOR_MAX * LIFE_MAX_US);
        Ok((self.kill()?, life_max))
    }

    pub fn kill(mut self) -> Result<Life> {
        let early = self.child.try_wait()?;
        process::kill(&mut self.child);
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut said)?;
        }
        ensure!(
            early.is_none(),
            "the writer ended by itself ({early:?}): {said}"
        );
        let told = std::fs::read_to_string(self.told.path())?;
        // The last line may be torn: it counts only with its end.
        let numbers: Vec<u64> = told
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n')?.parse().ok())
            .collect();
        Ok(Life {
            found: numbers.first().copied(),
            last: numbers.last().copied(),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        process::kill(&mut self.child);
    }
}

/// A writer of the setup's database.
fn writer(setup: &Setup, env: &[(String, String)], seed: u64, manner: &[&str]) -> Result<Writer> {
    let mut command = process::tied(paths::bundled_sqlite()?);
    command.args(["write-until-killed", &setup.uri(&setup.database())]);
    command.arg(paths::extension()?).arg(seed.to_string());
    command
        .args(manner)
        .envs(env.iter().map(|(name, value)| (name, value)));
    Writer::start(command)
}

/// Checks the numbers of one life against those of the lives before.
pub fn nothing_was_lost(kill: u64, committed: &mut u64, life: &Life) -> Result<()> {
    if let Some(found) = life.found {
        ensure!(
            found >= *committed,
            "kill {kill}: transaction {committed} had committed, {found} was found"
        );
    }
    *committed = (*committed).max(life.last.unwrap_or(0));
    Ok(())
}

fn hot_journal(database: &Path) -> bool {
    let journal = format!("{}-journal", database.display());
    std::fs::read(journal).is_ok_and(|bytes| bytes.first().is_some_and(|first| *first != 0))
}

/// Right after a kill, with nobody there to recover: either flush uploads what the file holds, or it says why it can't.
fn flush_is_honest(setup: &Setup) -> Result<()> {
    let hot = hot_journal(&setup.database());
    let done = setup.ctl(&["flush", utf8(&setup.spool())?])?;
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

/// One more start repairs, whatever the last kill left; then the store holds the source, and has never held anything else.
fn all_is_well(setup: &Setup, watch: Watch, committed: u64) -> Result<()> {
    let mut source = setup.writer(Program::Shell)?;
    let state: u64 = source.row("SELECT tx FROM head")?.parse()?;
    ensure!(
        state >= committed,
        "transaction {committed} had committed, {state} is there"
    );
    setup.flush()?;
    setup.restored_equals_source()?;
    source.close()?;
    let shown = every_version_is_committed(setup, watch, check_state)?;
    ensure!(
        shown.last == state,
        "the last version holds {}, the source {state}",
        shown.last
    );
    Ok(())
}

#[test]
fn a_writer_killed_at_three_hundred_random_moments_loses_nothing() -> Result<()> {
    let _limit = watchdog::limit("writer_kills", 400);
    let (setup, watch) = watched()?;
    let mut random = Random::new(31);
    let (mut committed, mut interrupted) = (0, 0);
    let (life, life_max_us) = writer(&setup, &setup.env(), WRITER_KILLS, &[])?.first()?;
    nothing_was_lost(0, &mut committed, &life)?;
    for kill in 0..WRITER_KILLS {
        let manner = MANNERS[usize::try_from(kill)? % MANNERS.len()];
        let writer = writer(&setup, &setup.env(), kill, manner)?;
        std::thread::sleep(Duration::from_micros(random.below(life_max_us)));
        nothing_was_lost(kill, &mut committed, &writer.kill()?)?;
        interrupted += u64::from(hot_journal(&setup.database()));
        if kill % 10 == 9 {
            flush_is_honest(&setup).with_context(|| format!("after kill {kill}"))?;
        }
    }
    eprintln!(
        "{committed} transactions committed, {interrupted} of {WRITER_KILLS} kills left a hot journal"
    );
    ensure!(
        committed > WRITER_KILLS,
        "the writers hardly lived: {committed} transactions"
    );
    all_is_well(&setup, watch, committed)
}

#[test]
fn a_writer_of_two_attached_databases_killed_at_random_moments_leaves_both_whole() -> Result<()> {
    let _limit = watchdog::limit("pair_kills", 200);
    let (setup, watch) = watched()?;
    let two = setup.path("source/two.db");
    let watch_two = Watch::start(&setup.manifest_file(&two)?)?;
    let mut random = Random::new(32);
    let start = |kill: u64| {
        let mut command = process::tied(paths::bundled_sqlite()?);
        command.arg("write-pairs-until-killed");
        command.args([setup.uri(&setup.database()), setup.uri(&two)]);
        command.arg(paths::extension()?).arg(kill.to_string());
        command.envs(setup.env());
        Writer::start(command)
    };
    let mut committed = 0;
    let (life, life_max_us) = start(PAIR_KILLS)?.first()?;
    nothing_was_lost(0, &mut committed, &life)?;
    for kill in 0..PAIR_KILLS {
        let writer = start(kill)?;
        std::thread::sleep(Duration::from_micros(random.below(life_max_us)));
        nothing_was_lost(kill, &mut committed, &writer.kill()?)?;
    }
    ensure!(
        committed > PAIR_KILLS,
        "the writers hardly lived: {committed} transactions"
    );
    let mut source = setup.writer(Program::Python)?;
    source.run(&[format!("ATTACH '{}' AS two", setup.uri(&two))])?;
    let state = source.row("SELECT seq FROM main.head")?;
    ensure!(
        state == source.row("SELECT seq FROM two.head")?,
        "a transaction reached one database only"
    );
    ensure!(state.parse::<u64>()? >= committed);
    setup.flush()?;
    for (database, watch) in [(setup.database(), watch), (two, watch_two)] {
        is_equal(&setup, &database)?;
        let shown = every_version_is_committed(&setup, watch, last_entry)?;
        ensure!(
            shown.last.to_string() == state,
            "the last version of {} holds {}",
            database.display(),
            shown.last
        );
    }
    source.close().map(drop)
}

#[test]
fn a_copier_process_killed_at_a_hundred_random_moments_never_publishes_a_wrong_version()
-> Result<()> {
    let _limit = watchdog::limit("copier_kills", 200);
    let (setup, watch) = watched()?;
    let env = env_without_credentials(&with_mode(&setup, "external"));
    let mut random = Random::new(33);
    // The spool exists once somebody has written.
    let mut first = setup.writer(Program::Python)?;
    first.run(&["PRAGMA user_version=1"])?;
    first.close()?;
    let writer = writer(&setup, &env, 1, &[])?;
    for kill in 0..COPIER_KILLS {
        let copier = ExternalCopier::start(&setup)?;
        std::thread::sleep(Duration::from_micros(10_000 + random.below(LIFE_MAX_US)));
        copier.kill().with_context(|| format!("kill {kill}"))?;
    }
    let mut committed = 0;
    nothing_was_lost(0, &mut committed, &writer.kill()?)?;
    all_is_well(&setup, watch, committed)
}

#[test]
fn a_process_killed_while_its_copier_serves_another_one_takes_nothing_along() -> Result<()> {
    let _limit = watchdog::limit("host_kills", 200);
    let (setup, watch) = watched()?;
    let mut random = Random::new(34);
    let mut source = setup.writer(Program::Python)?;
    source.run(&open_books("main"))?;
    source.close()?;
    let start = |process: u64| {
        let mut command = process::tied(paths::bundled_sqlite()?);
        command.args(["write-ledger-until-killed", &setup.uri(&setup.database())]);
        command.arg(paths::extension()?).arg(process.to_string());
        command.envs(setup.env());
        Writer::start(command)
    };
    // Each is killed in its turn while the next one lives on, and serves what it left.
    let (life, life_max_us) = start(0)?.first()?;
    let mut told = vec![life.last.unwrap_or(0)];
    let mut previous = start(1)?;
    for process in 2..=HOST_KILLS {
        let next = start(process)?;
        std::thread::sleep(Duration::from_micros(random.below(life_max_us)));
        told.push(previous.kill()?.last.unwrap_or(0));
        previous = next;
    }
    told.push(previous.kill()?.last.unwrap_or(0));
    let total: u64 = told.iter().sum();
    ensure!(total > HOST_KILLS, "the writers hardly lived: {total}");

    let mut source = setup.writer(Program::Shell)?;
    source.row("SELECT seq FROM head")?;
    setup.flush()?;
    setup.restored_equals_source()?;
    source.close()?;
    let books = check_books(&setup.database())?;
    for (process, last) in (0..).zip(told) {
        let kept = books.entered.get(&process).copied().unwrap_or(0);
        ensure!(
            kept >= last,
            "process {process} saw {last} commits, {kept} are there"
        );
    }
    let shown = every_version_is_committed(&setup, watch, last_entry)?;
    ensure!(shown.last == books.last);
    Ok(())
}

#[test]
fn writer_and_copier_killed_together_at_random_moments_lose_nothing() -> Result<()> {
    let _limit = watchdog::limit("both_kills", 200);
    let (setup, watch) = watched()?;
    let env = env_without_credentials(&with_mode(&setup, "external"));
    let mut random = Random::new(35);
    let mut committed = 0;
    // The spool exists once somebody has written.
    let mut first = setup.writer(Program::Python)?;
    first.run(&["PRAGMA user_version=1"])?;
    first.close()?;
    let (life, life_max_us) = writer(&setup, &env, BOTH_KILLS, &[])?.first()?;
    nothing_was_lost(0, &mut committed, &life)?;
    for kill in 0..BOTH_KILLS {
        let manner = MANNERS[usize::try_from(kill)? % MANNERS.len()];
        let writer = writer(&setup, &env, kill, manner)?;
        let copier = ExternalCopier::start(&setup)?;
        std::thread::sleep(Duration::from_micros(10_000 + random.below(life_max_us)));
        if random.below(2) == 0 {
            copier.kill().with_context(|| format!("kill {kill}"))?;
            nothing_was_lost(kill, &mut committed, &writer.kill()?)?;
        } else {
            nothing_was_lost(kill, &mut committed, &writer.kill()?)?;
            copier.kill().with_context(|| format!("kill {kill}"))?;
        }
        if kill % 10 == 9 {
            flush_is_honest(&setup).with_context(|| format!("after kill {kill}"))?;
        }
    }
    ensure!(
        committed > BOTH_KILLS,
        "the writers hardly lived: {committed}"
    );
    all_is_well(&setup, watch, committed)
}
