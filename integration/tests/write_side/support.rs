//! What the modules of this binary share: sessions of stock SQLite, the check of every version, arrivals, and the copier as a
//! process of its own.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use verneuil_integration::ledger::{Books, check_books};
use verneuil_integration::process::{self, COMMAND_LIMIT, until};
use verneuil_integration::seaweed::credentials;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{HOST, Setup};
use verneuil_integration::state::same_bytes;
use verneuil_integration::watch::{Watch, save_all};
use verneuil_integration::{paths, setup::Kind};

/// How long a commit may take to arrive when nothing is in its way but the other tests of this machine.
pub const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);

/// A host whose store is a directory, and a watch on its database's manifests.
pub fn watched() -> Result<(Setup, Watch)> {
    let setup = Setup::new(Kind::Directory)?;
    let watch = Watch::start(&setup.manifest_file(&setup.database())?)?;
    Ok((setup, watch))
}

/// A session of a program that knows nothing of Verneuil.
pub fn stock(program: Program, database: &Path) -> Result<Session> {
    let uri = format!("file:{}", database.display());
    Session::open(
        program,
        &Opening {
            uri: &uri,
            load: false,
            env: &[],
        },
    )
}

/// A session with the extension, under another configuration than the setup's.
pub fn session_with(setup: &Setup, config: &Value, program: Program) -> Result<Session> {
    Session::open(
        program,
        &Opening {
            uri: &setup.uri(&setup.database()),
            load: true,
            env: &setup.env_with(config),
        },
    )
}

/// `path` as an argument.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Restores the newest version that the first target of `config` holds to `out`.
pub fn restore_with(setup: &Setup, config: &Value, database: &Path, out: &Path) -> Result<()> {
    let (source, out) = (utf8(database)?, utf8(out)?);
    setup
        .ctl_with(
            config,
            &["restore", "-s", source, "--hostname", HOST, "-o", out],
        )?
        .ok()
        .context("verneuilctl restore")?;
    Ok(())
}

/// Fails unless the store's newest version of `database` is the file, byte for byte.
pub fn is_equal(setup: &Setup, database: &Path) -> Result<()> {
    let out = setup.path("equal.db");
    setup.restore(database, &out)?;
    ensure!(
        std::fs::metadata(&out)?.len() > 0,
        "an empty restore proves nothing"
    );
    same_bytes(database, &out)
}

/// Waits until the store holds the file as it is, without any help, and says how long that took.
pub fn arrives(setup: &Setup, limit: Duration) -> Result<Duration> {
    let begin = Instant::now();
    until("the store holds the last commit", limit, || {
        is_equal(setup, &setup.database())
    })?;
    Ok(begin.elapsed())
}

/// What the check of all versions showed.
#[derive(Debug)]
pub struct Shown {
    pub versions: usize,
    pub last: u64,
}

/// Restores every version that was seen, and checks that each is a committed state (`check` gives its number) and that they
/// only move forward.
pub fn every_version_is_committed(
    setup: &Setup,
    watch: Watch,
    check: impl Fn(&Path) -> Result<u64>,
) -> Result<Shown> {
    every_version_of(setup, &setup.config(), watch, check)
}

/// The same, for the only target of `config`.
pub fn every_version_of(
    setup: &Setup,
    config: &Value,
    watch: Watch,
    check: impl Fn(&Path) -> Result<u64>,
) -> Result<Shown> {
    let folder = tempfile::tempdir_in(setup.path(""))?;
    let files = save_all(&watch.finish()?, folder.path())?;
    let out = folder.path().join("one.db");
    let mut last = 0;
    for (generation, manifest) in &files {
        setup
            .ctl_with(
                config,
                &["restore", "-m", utf8(manifest)?, "-o", utf8(&out)?],
            )?
            .ok()
            .with_context(|| format!("restore of generation {generation}"))?;
        let state = check(&out).with_context(|| format!("generation {generation}"))?;
        ensure!(
            state >= last,
            "generation {generation} holds transaction {state}, after one that held {last}"
        );
        last = state;
    }
    eprintln!(
        "{} versions, each one committed state, the last of transaction {last}",
        files.len()
    );
    Ok(Shown {
        versions: files.len(),
        last,
    })
}

/// Number of the last transaction in books that hold.
pub fn last_entry(file: &Path) -> Result<u64> {
    Ok(check_books(file)?.last)
}

/// The books of the setup's database as the file has them, with nobody writing.
pub fn books_of_source(setup: &Setup) -> Result<Books> {
    check_books(&setup.database())
}

/// The setup's configuration with another copier mode.
pub fn with_mode(setup: &Setup, mode: &str) -> Value {
    let mut config = setup.config();
    config["copier"]["mode"] = json!(mode);
    config
}

/// The environment of an application that has no credentials, and can't find any on this machine.
pub fn env_without_credentials(config: &Value) -> Vec<(String, String)> {
    let mut env = credentials("", "");
    env.retain(|(name, _)| !name.ends_with("_KEY") && !name.ends_with("_KEY_ID"));
    env.push(("VERNEUIL_CONFIG".to_owned(), config.to_string()));
    env
}

/// A session of the setup's database in an application that leaves the copying to others, and has no credentials.
pub fn external_writer(setup: &Setup, program: Program) -> Result<Session> {
    let config = with_mode(setup, "external");
    Session::open(
        program,
        &Opening {
            uri: &setup.uri(&setup.database()),
            load: true,
            env: &env_without_credentials(&config),
        },
    )
}

/// `verneuilctl copy SPOOL`.
#[derive(Debug)]
pub struct ExternalCopier {
    child: Child,
    errors: NamedTempFile,
}

impl ExternalCopier {
    /// Starts it on the setup's spool.
    pub fn start(setup: &Setup) -> Result<Self> {
        let errors = NamedTempFile::new()?;
        let mut command = process::tied(paths::verneuilctl()?);
        command.arg("copy").arg(setup.spool()).envs(setup.env());
        command
            .stdin(Stdio::null())
            .stdout(errors.reopen()?)
            .stderr(errors.reopen()?);
        let child = command.spawn().context("could not start verneuilctl")?;
        Ok(Self { child, errors })
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.errors.path()).unwrap_or_default()
    }

    /// Fails if it has ended by itself.
    pub fn is_running(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(
            ended.is_none(),
            "verneuilctl copy ended by itself ({ended:?}): {}",
            self.said()
        );
        Ok(())
    }

    /// Ends it with `kill -9`; fails if it had ended before.
    pub fn kill(mut self) -> Result<()> {
        self.is_running()?;
        process::kill(&mut self.child);
        Ok(())
    }

    /// Asks it to drain and end, and fails unless it does.
    pub fn terminate(mut self) -> Result<()> {
        self.is_running()?;
        send_signal(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        let status = process::wait(&mut self.child, COMMAND_LIMIT)?;
        ensure!(
            status.success(),
            "verneuilctl copy ended with {status} after SIGTERM: {}",
            self.said()
        );
        Ok(())
    }
}

impl Drop for ExternalCopier {
    fn drop(&mut self) {
        process::kill(&mut self.child);
    }
}
