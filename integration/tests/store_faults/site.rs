//! A source host whose stores are behind fronts; `writing` and `reading` ask it for commits, commands and verdicts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use verneuil_format::Manifest;
use verneuil_integration::front::{Fault, Front};
use verneuil_integration::seaweed::Seaweed;
use verneuil_integration::session::{Program, Session};
use verneuil_integration::setup::{HOST, Pace, Setup};
use verneuil_integration::state::{check_state, same_bytes};
use verneuil_integration::workload::{Workload, WorkloadOptions};

use crate::table::Arrangement;

/// One attempt of a request that does not answer: the tests must not wait long for it, and nobody else be taken for one.
pub const SILENCE_MS: u64 = 2_000;
/// One attempt, where every request is answered, on a machine that is busy with other tests.
const ANSWER_MS: u64 = 15_000;
/// Attempts per request.
pub const ATTEMPTS_MAX: usize = 2;
/// Requests per second of the background, and how many may come at once.
pub const RATE: u32 = 5;

/// A local commit has no reason to take this long, not even on a machine whose disk is busy.
const COMMIT_MAX: Duration = Duration::from_secs(20);

/// The shared buckets, which are there.
const CHUNKS: &str = "faults-chunks";
const MANIFESTS: &str = "faults-manifests";

/// A source host, its application's transactions, and the fronts of its targets; the first one misbehaves.
pub struct Site {
    pub setup: Setup,
    pub fronts: Vec<Front>,
    direct: Vec<Value>,
    workload: Workload,
    program: Program,
}

fn target(
    endpoint: &str,
    buckets: (&str, &str),
    (prefix, on_demand): (&str, bool),
    timeout_ms: u64,
) -> Value {
    json!({"s3": {
        "region": "us-east-1",
        "endpoint": endpoint,
        "chunk_bucket": buckets.0,
        "manifest_bucket": buckets.1,
        "prefix": prefix,
        "create_buckets_on_demand": on_demand,
        "request_timeout_ms": timeout_ms,
        "max_attempts": ATTEMPTS_MAX,
    }})
}

/// Makes the buckets that most cells share.
pub fn make_shared_buckets(server: &Seaweed) -> Result<()> {
    let maker = target(
        &server.endpoint(),
        (CHUNKS, MANIFESTS),
        ("first/", true),
        ANSWER_MS,
    );
    let setup = Setup::beside(vec![maker], server.credentials(), Pace::default())?;
    let mut source = setup.writer(Program::Rusqlite)?;
    source.run(&[
        "CREATE TABLE t(x)",
        "INSERT INTO t VALUES(randomblob(300000))",
    ])?;
    setup.flush()?;
    source.close().map(drop)
}

impl Site {
    pub fn new(
        server: &Seaweed,
        number: usize,
        fault: Fault,
        arrangement: Arrangement,
    ) -> Result<Self> {
        let timeout_ms = match fault {
            Fault::Hang | Fault::Trickle => SILENCE_MS,
            _ => ANSWER_MS,
        };
        let (mut fronts, mut targets, mut direct) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..arrangement.targets() {
            let front = Front::start(server.address())?;
            let prefix = format!("cell-{number}/{index}/");
            let own = format!("faults-{number}-{index}");
            let is_bucketless = arrangement.is_bucketless();
            let buckets = if is_bucketless {
                (&own[..], &own[..])
            } else {
                (CHUNKS, MANIFESTS)
            };
            let entry =
                |endpoint: &str| target(endpoint, buckets, (&prefix, is_bucketless), timeout_ms);
            targets.push(entry(&front.endpoint()));
            direct.push(entry(&server.endpoint()));
            fronts.push(front);
        }
        let pace = Pace {
            min_manifest_interval_ms: 20,
            requests_per_second: RATE,
        };
        let options = WorkloadOptions {
            reshape: false,
            bursts: false,
        };
        Ok(Self {
            setup: Setup::beside(targets, server.credentials(), pace)?,
            fronts,
            direct,
            workload: Workload::new(number as u64, options),
            program: if number.is_multiple_of(2) {
                Program::Python
            } else {
                Program::Rusqlite
            },
        })
    }

    /// The application.
    pub fn application(&self) -> Result<Session> {
        self.setup.writer(self.program)
    }

    /// Number of the last transaction.
    pub fn committed(&self) -> u64 {
        self.workload.committed()
    }

    /// One transaction; with `is_large`, one that takes a pack. Says how long it took.
    pub fn commit(&mut self, source: &mut Session, is_large: bool) -> Result<Duration> {
        let mut lines = self.workload.step();
        if is_large {
            let large = "INSERT INTO noise(body) VALUES(randomblob(300000))";
            lines.insert(lines.len() - 1, large.to_owned());
        }
        let begun = Instant::now();
        source.run(&lines)?;
        let took = begun.elapsed();
        ensure!(took < COMMIT_MAX, "a transaction took {took:?}");
        Ok(took)
    }

    /// Runs a command with the site's configuration.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.setup.ctl(arguments)?;
        if !finished.status.success() {
            bail!("{}", finished.stderr.trim());
        }
        Ok(finished.text())
    }

    /// `verneuilctl flush`.
    pub fn flush(&self) -> Result<()> {
        let spool = self.setup.spool();
        self.ctl(&["flush", utf8(&spool)?]).map(drop)
    }

    /// `verneuilctl sync`.
    pub fn sync(&self) -> Result<()> {
        let database = self.setup.database();
        self.ctl(&["sync", utf8(&database)?]).map(drop)
    }

    /// A pragma in an application of its own.
    pub fn pragma(&self, pragma: &str) -> Result<String> {
        self.application()?.row(&format!("PRAGMA {pragma}"))
    }

    /// What `verneuilctl status` says of the database.
    pub fn status(&self) -> Result<Value> {
        let spool = self.setup.spool();
        let said = self.ctl(&["status", "--json", utf8(&spool)?])?;
        let mut status: Value = serde_json::from_str(&said).context(said)?;
        Ok(status["databases"][0].take())
    }

    /// Fails unless this target's last manifest is the database as it is now.
    pub fn has_all(&self, index: usize) -> Result<()> {
        let books = self.fronts[index].books();
        let last = books.versions().last().context("there is no manifest")?;
        ensure!(last.missing.is_empty(), "it lacks {:?}", last.missing);
        let database = books.database(last)?;
        let file = std::fs::read(self.setup.database())?;
        ensure!(database == file, "the last manifest is another state");
        Ok(())
    }

    /// Fails unless every manifest that a target has ever held was closed and a committed state, and they moved forward only.
    pub fn has_only_committed_states(&self) -> Result<()> {
        let out = self.setup.path("version.db");
        for front in &self.fronts {
            let books = front.books();
            let (mut last, mut generation) = (0, 0);
            for version in books.versions() {
                let number = Manifest::decode(&version.body)?.generation().0;
                ensure!(
                    number > generation,
                    "generation {number} was published after {generation}"
                );
                generation = number;
                ensure!(
                    version.missing.is_empty(),
                    "generation {number} was published before {:?}",
                    version.missing
                );
                std::fs::write(&out, books.database(version)?)?;
                let state = check_state(&out).with_context(|| format!("generation {number}"))?;
                ensure!(
                    (last..=self.committed()).contains(&state),
                    "generation {number} holds transaction {state} after {last}, of {}",
                    self.committed()
                );
                last = state;
            }
        }
        Ok(())
    }

    /// Restores what a target holds, past its front, and compares it with the database.
    pub fn restored_equals_source(&self, index: usize) -> Result<()> {
        let mut config = self.setup.config();
        config["replication_targets"] = json!([self.direct[index]]);
        let out = self.setup.path(&format!("restored-{index}.db"));
        self.restore_with(&config, &out)?;
        same_bytes(&self.setup.database(), &out)
    }

    /// `verneuilctl restore` of the newest version.
    pub fn restore_with(&self, config: &Value, out: &Path) -> Result<()> {
        let database = self.setup.database();
        let (database, out) = (utf8(&database)?, utf8(out)?);
        let finished = self.setup.ctl_with(
            config,
            &["restore", "-s", database, "--hostname", HOST, "-o", out],
        )?;
        if !finished.status.success() {
            bail!("{}", finished.stderr.trim());
        }
        Ok(())
    }

    /// Gives up the buckets that only this site uses.
    pub fn forget_own_buckets(&self, server: &Seaweed) -> Result<()> {
        for target in &self.direct {
            let bucket = target["s3"]["chunk_bucket"].as_str().unwrap_or_default();
            if bucket != CHUNKS {
                server.forget_bucket(bucket)?;
            }
        }
        Ok(())
    }

    /// The site's configuration, for a reader whose stores are behind these fronts.
    pub fn config_behind(&self, fronts: &[Front]) -> Value {
        let mut config = self.setup.config();
        for (index, front) in fronts.iter().enumerate() {
            let endpoint = &mut config["replication_targets"][index]["s3"]["endpoint"];
            *endpoint = json!(front.endpoint());
        }
        config
    }

    /// A path for something that a reader writes.
    pub fn out(&self, name: &str) -> PathBuf {
        self.setup.path(name)
    }
}

/// `path` as an argument.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
