//! The store is away while commits go on at full speed: the spool stays within its bounds, and afterwards all arrives.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use verneuil_integration::footprint::{Sample, Sampler};
use verneuil_integration::process::{self, until};
use verneuil_integration::session::Program;
use verneuil_integration::setup::{Kind, Setup, Target};
use verneuil_integration::{paths, watchdog};

use crate::support::{arrives, is_equal};

/// How long the store is away, in seconds, unless this variable says so.
const OUTAGE_VARIABLE: &str = "VERNEUIL_TEST_OUTAGE_S";
const OUTAGE_S: u64 = 60;

/// P2: a spool stays below so many times its database's size …
const FOOTPRINT_FACTOR: u64 = 4;
/// … and this.
const FOOTPRINT_EXTRA_BYTES: u64 = 16 << 20;

/// A transaction leaves no more than this in the change log, however large it is.
const LOG_MAX_BYTES: u64 = 64 << 20;

/// The hammer's database.
const DATABASE_MIB: u64 = 40;

/// What the hammer must get done in a second, or it was not at full speed.
const COMMITS_PER_SECOND_MIN: u64 = 200;

/// A local commit has no reason to take this long, not even on a busy disk.
const COMMIT_MAX_MS: u64 = 5_000;

/// A store that has come back is noticed after the longest pause of a backoff; then comes the upload.
const RETURN_LIMIT: Duration = Duration::from_secs(120);

fn outage_s() -> Result<u64> {
    match std::env::var(OUTAGE_VARIABLE) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{OUTAGE_VARIABLE}={text}: not a number of seconds")),
        Err(_) => Ok(OUTAGE_S),
    }
}

/// `programs/hammer.py`: commits as fast as it can when it is told to.
struct Hammer {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Hammer {
    fn start(setup: &Setup, seconds: u64) -> Result<Self> {
        let mut command = process::tied(paths::python()?);
        command.args(["-c", include_str!("../../programs/hammer.py")]);
        command
            .arg(paths::extension()?)
            .arg(setup.uri(&setup.database()));
        command.args([seconds.to_string(), DATABASE_MIB.to_string()]);
        command
            .envs(setup.env())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("could not start the hammer")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes");
        };
        let lines = BufReader::new(output).lines();
        let mut hammer = Self {
            child,
            input,
            lines,
        };
        hammer.line()?;
        Ok(hammer)
    }

    fn line(&mut self) -> Result<Value> {
        let line = self.lines.next().context("the hammer broke")??;
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    /// Lets it go, and gives what it has counted.
    fn strike(&mut self) -> Result<Value> {
        self.input.write_all(b"go\n")?;
        self.line()
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        let status = process::wait(&mut self.child, Duration::from_secs(60))?;
        ensure!(status.success(), "the hammer ended with {status}");
        Ok(())
    }
}

fn is_within_bounds(samples: &[Sample]) -> Result<()> {
    let largest = samples.iter().max_by_key(|sample| sample.spool_bytes);
    let largest = largest.context("no samples")?;
    eprintln!(
        "{} samples; at most {} MiB of spool beside {} MiB of database",
        samples.len(),
        largest.spool_bytes >> 20,
        largest.database_bytes >> 20
    );
    for sample in samples {
        let bound = FOOTPRINT_FACTOR * sample.database_bytes + FOOTPRINT_EXTRA_BYTES;
        ensure!(
            sample.spool_bytes <= bound,
            "the spool took {} bytes beside a database of {}: more than {bound}",
            sample.spool_bytes,
            sample.database_bytes
        );
    }
    Ok(())
}

#[test]
fn full_speed_commits_without_a_store_stay_within_bounds_and_arrive_when_it_is_back() -> Result<()>
{
    let seconds = outage_s()?;
    let _limit = watchdog::limit("full_speed", seconds + 300);
    let setup = Setup::new(Kind::S3)?;
    let Target::S3 { proxy, .. } = setup.target() else {
        bail!("an S3 store was asked for")
    };
    let sampler = Sampler::start(setup.spool(), setup.database());
    let mut hammer = Hammer::start(&setup, seconds)?;
    setup.flush()?;
    proxy.cut();
    let counted = hammer.strike()?;
    let commits = counted["commits"].as_u64().context("commits")?;
    let longest_ms = counted["longest_ms"].as_u64().context("longest_ms")?;
    eprintln!("{commits} commits in {seconds} s, the longest took {longest_ms} ms");
    ensure!(
        commits >= COMMITS_PER_SECOND_MIN * seconds,
        "only {commits} commits in {seconds} s: that is not full speed"
    );
    ensure!(
        longest_ms < COMMIT_MAX_MS,
        "a commit took {longest_ms} ms while the store was away"
    );
    proxy.mend();
    // Nobody flushes and nobody reopens.
    let after = arrives(&setup, RETURN_LIMIT)?;
    eprintln!("all of it arrived {after:?} after the store was back");
    setup.flush()?;
    setup.restored_equals_source()?;
    let samples = sampler.finish()?;
    ensure!(
        samples.len() as u64 > seconds * 5,
        "only {} samples",
        samples.len()
    );
    is_within_bounds(&samples)?;
    hammer.end()
}

#[test]
fn a_transaction_of_500_mb_leaves_at_most_64_mib_of_log_and_arrives() -> Result<()> {
    let _limit = watchdog::limit("huge_transaction", 400);
    let setup = Setup::new(Kind::Directory)?;
    let mut source = setup.writer(Program::Rusqlite)?;
    source.run(&[
        "CREATE TABLE big(body BLOB)",
        "INSERT INTO big VALUES(randomblob(100))",
    ])?;
    setup.flush()?;
    let sampler = Sampler::start(setup.spool(), setup.database());
    source.run(&[
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000) INSERT INTO big SELECT randomblob(100000) FROM n",
    ])?;
    ensure!(
        std::fs::metadata(setup.database())?.len() > 500_000_000,
        "the transaction was not that large"
    );
    // A small one behind it, which must not wait for the large one to be in the store.
    source.run(&["INSERT INTO big VALUES(randomblob(100))"])?;
    until("all of it arrives", Duration::from_secs(200), || {
        let done = source.row("PRAGMA verneuil_flush_replication_data")?;
        ensure!(done == "1", "{done}");
        Ok(())
    })?;
    let samples = sampler.finish()?;
    let logs = samples.iter().map(|sample| sample.log_bytes).max();
    let logs = logs.context("no samples")?;
    eprintln!("at most {} MiB of log", logs >> 20);
    ensure!(
        logs <= LOG_MAX_BYTES,
        "the change log took {logs} bytes, more than {LOG_MAX_BYTES}"
    );
    is_within_bounds(&samples)?;
    is_equal(&setup, &setup.database())?;
    source.close().map(drop)
}
