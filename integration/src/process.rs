//! Children that end: with a time limit, or with the thread that started them; `session.rs`, `mount.rs` and the tests run
//! every program through here.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time limit of a command that has no reason to take long, on a machine that is busy with other tests.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(4);

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Itself if the command succeeded.
    ///
    /// # Errors
    /// With both outputs if it did not.
    pub fn ok(self) -> Result<Self> {
        if !self.status.success() {
            bail!(
                "{}; stderr: {}; stdout: {}",
                self.status,
                self.stderr.trim(),
                self.text().trim()
            );
        }
        Ok(self)
    }

    /// The error text of a command that was meant to fail.
    ///
    /// # Errors
    /// If it succeeded.
    pub fn expect_failure(self) -> Result<String> {
        if self.status.success() {
            bail!(
                "succeeded where a failure was due; stdout: {}",
                self.text().trim()
            );
        }
        Ok(self.stderr)
    }
}

/// A command whose process is killed when the *thread* that spawns it ends (`prctl(PR_SET_PDEATHSIG)` by way of
/// util-linux's `setpriv`, which needs no `unsafe` here): a failed or killed test leaves nothing running.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    tied_by("KILL", program)
}

/// As [`tied`], with another signal than `KILL`.
pub fn tied_by(signal: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// Runs a command to its end, kills it after `limit`.
///
/// # Errors
/// When it can't be started or takes longer; not when it exits with a failure (see [`Finished::ok`]).
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let name = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("could not start {name}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, limit);
    let stdout = stdout.join().unwrap_or_default();
    let stderr = String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned();
    let status = status.with_context(|| format!("{name}: {}", stderr.trim()))?;
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks ends what there is to read.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for a child, and kills it after `limit`.
///
/// # Errors
/// When the limit was reached; the child is gone then too.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("waiting for a child")? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            kill(child);
            bail!("still running after {limit:?}: killed");
        }
        std::thread::sleep(POLL);
    }
}

/// Kills a child and reaps it.
pub fn kill(child: &mut Child) {
    // Both fail only if it is already gone.
    let _ = child.kill();
    let _ = child.wait();
}

/// Repeats `probe` until it gives a value.
///
/// # Errors
/// After `limit`, with `what` and the last reason.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("after {limit:?} still not: {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Whether some process has `path` among its arguments.
///
/// # Errors
/// When `/proc` can't be read.
pub fn is_running_with(path: &Path) -> Result<bool> {
    for entry in std::fs::read_dir("/proc")? {
        // Processes come and go: one that is gone by now has no arguments.
        let line = entry
            .and_then(|entry| std::fs::read(entry.path().join("cmdline")))
            .unwrap_or_default();
        if line
            .split(|byte| *byte == 0)
            .any(|argument| argument == path.as_os_str().as_encoded_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}
