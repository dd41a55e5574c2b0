//! A child that is talked to line by line: `session.rs` and `tests/host_process` know what to say, and what the answers mean.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::process;

/// Longest wait for one line: longer than a child of the program may live (`CHILD_LIMIT_S` of `programs/host.*`).
pub const LINE_LIMIT: Duration = Duration::from_secs(60);

/// A program that runs, and dies with this.
#[derive(Debug)]
pub struct Dialogue {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: NamedTempFile,
}

impl Dialogue {
    /// Starts the program.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let errors = NamedTempFile::new()?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen()?);
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start {command:?}"))?;
        let (send, lines) = channel();
        let output = child.stdout.take().context("no pipe")?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            input: child.stdin.take(),
            child,
            lines,
            errors,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it text.
    ///
    /// # Errors
    /// When it has ended, or its input.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        match &mut self.input {
            Some(input) => input.write_all(text.as_bytes()),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// The next line that it writes; `None` if it has closed its output.
    ///
    /// # Errors
    /// After [`LINE_LIMIT`]; it is killed then.
    pub fn line(&mut self) -> Result<Option<String>> {
        match self.lines.recv_timeout(LINE_LIMIT) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                self.kill();
                bail!(
                    "no answer within {LINE_LIMIT:?}, killed: {}",
                    self.complaints()
                )
            }
        }
    }

    /// Ends its input.
    pub fn hang_up(&mut self) {
        drop(self.input.take());
    }

    /// Waits for its end, and kills it after `limit`.
    ///
    /// # Errors
    /// When the limit was reached.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        process::wait(&mut self.child, limit)
    }

    /// What it has written to standard error up to now.
    #[must_use]
    pub fn complaints(&self) -> String {
        let bytes = std::fs::read(self.errors.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Ends it with `kill -9`.
    pub fn kill(&mut self) {
        process::kill(&mut self.child);
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        self.kill();
    }
}
