//! A host: one of `programs/host.{c,py,php}` as a process that is told what to do line by line, and what it looks like from outside
//! (`probe`). Every test of this binary starts here; the C program comes from `libraries`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use verneuil_integration::seaweed::{ACCESS_KEY, SECRET_KEY, credentials};
use verneuil_integration::setup::Setup;
use verneuil_integration::{paths, process};

use crate::libraries::{self, Sqlite};

/// Longest wait for one answer: longer than a child may live (`CHILD_LIMIT_S` of the programs).
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What kind of program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Python,
    /// PHP's class SQLite3, for which `verneuil` must be the default VFS: it knows no URIs.
    PhpSqlite3,
    /// PHP's PDO.
    PhpPdo,
    C(Sqlite),
}

impl Program {
    /// One of each language, and of each SQLite.
    pub const ALL: [Self; 6] = [
        Self::Python,
        Self::PhpSqlite3,
        Self::PhpPdo,
        Self::C(Sqlite::System),
        Self::C(Sqlite::Oldest),
        Self::C(Sqlite::MultiThread),
    ];

    fn command(self) -> Result<Command> {
        let script = |name| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("programs")
                .join(name)
        };
        let mut command;
        match self {
            Self::Python => {
                command = process::tied(paths::python()?);
                command.arg(script("host.py"));
            }
            Self::PhpSqlite3 | Self::PhpPdo => {
                command = process::tied(paths::system_program(
                    "php",
                    "php-cli, and php-sqlite3 with it",
                )?);
                let folder = paths::products_dir()?;
                command.args(["-d", &format!("sqlite3.extension_dir={}", folder.display())]);
                command.arg(script("host.php"));
                command.arg(if self == Self::PhpPdo {
                    "pdo"
                } else {
                    "sqlite3"
                });
            }
            Self::C(sqlite) => {
                let (program, folder) = libraries::c_host(sqlite)?;
                command = process::tied(program);
                if let Some(folder) = folder {
                    command.env("LD_LIBRARY_PATH", folder);
                }
            }
        }
        Ok(command)
    }
}

/// A host that runs.
#[derive(Debug)]
pub struct Host {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    errors: NamedTempFile,
    program: Program,
}

impl Host {
    /// Starts it under the setup's configuration; it has loaded nothing yet.
    pub fn start(program: Program, setup: &Setup) -> Result<Self> {
        Self::start_with(program, setup, &setup.config())
    }

    /// As [`Host::start`], under another configuration.
    pub fn start_with(program: Program, setup: &Setup, config: &Value) -> Result<Self> {
        Self::start_command(program, program.command()?, setup, config)
    }

    /// As [`Host::start_with`], within another program.
    pub fn start_within(wrapper: Command, program: Program, setup: &Setup) -> Result<Self> {
        let inner = program.command()?;
        let mut command = wrapper;
        // Without `setpriv` and its arguments: the wrapper is tied itself.
        command.args(inner.get_args().skip(3));
        Self::start_command(program, command, setup, &setup.config())
    }

    fn start_command(
        program: Program,
        mut command: Command,
        setup: &Setup,
        config: &Value,
    ) -> Result<Self> {
        let mut config = config.clone();
        let database = setup.database();
        let uri = if program == Program::PhpSqlite3 {
            config["make_default"] = json!(true);
            database.display().to_string()
        } else {
            setup.uri(&database)
        };
        let errors = NamedTempFile::new()?;
        command
            .arg(paths::extension()?)
            .arg(uri)
            .envs(setup.env_with(&config))
            .envs(credentials(ACCESS_KEY, SECRET_KEY))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen()?);
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start {command:?}"))?;
        let (send, answers) = channel();
        let output = child.stdout.take().context("no pipe")?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Ok(Self {
            child,
            input,
            answers,
            errors,
            program,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something without waiting for an answer.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .context("the host is told nothing any more")?;
        writeln!(input, "{command}")
            .with_context(|| format!("{:?}, told {command:?}", self.program))
    }

    /// Has it do something, and gives its answer.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.tell(command)?;
        self.answer().with_context(|| format!("asked {command:?}"))
    }

    /// The answer to what it was told.
    pub fn answer(&mut self) -> Result<String> {
        match self.answers.recv_timeout(ANSWER_LIMIT) {
            Ok(answer) => match answer.strip_prefix("ok") {
                Some(answer) => Ok(answer.trim().to_owned()),
                None => bail!("{:?}: {answer}", self.program),
            },
            Err(error) => {
                process::kill(&mut self.child);
                bail!(
                    "{:?} did not answer ({error}): {}",
                    self.program,
                    self.complaints()
                )
            }
        }
    }

    /// Several of them, answers unread.
    pub fn ask_all(&mut self, commands: &[&str]) -> Result<()> {
        commands
            .iter()
            .try_for_each(|command| self.ask(command).map(drop))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(send_signal(Pid::from_raw(self.pid().try_into()?), signal)?)
    }

    /// Waits for its end, which may take so long at most; how it ended, and how long that took.
    pub fn ends(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let begun = Instant::now();
        let status = process::wait(&mut self.child, limit)
            .with_context(|| format!("{:?}: {}", self.program, self.complaints()))?;
        Ok((status, begun.elapsed()))
    }

    /// Ends its input; it must end with success, and must not have said anything to standard error.
    pub fn finish(mut self) -> Result<()> {
        drop(self.input.take());
        let (status, _) = self.ends(ANSWER_LIMIT)?;
        let said = self.complaints();
        anyhow::ensure!(
            status.success() && said.is_empty(),
            "{:?} ended with {status}: {said}",
            self.program
        );
        Ok(())
    }

    /// What it has written to standard error.
    pub fn complaints(&self) -> String {
        let bytes = std::fs::read(self.errors.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        process::kill(&mut self.child);
    }
}
