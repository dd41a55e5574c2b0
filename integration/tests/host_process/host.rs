//! A host: one of `programs/host.{c,py,php}` as a process that is told what to do line by line, and what it looks like from outside
//! (`probe`). Every test of this binary starts here; the C program comes from `libraries`.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use verneuil_integration::dialogue::{Dialogue, LINE_LIMIT};
use verneuil_integration::seaweed::{ACCESS_KEY, SECRET_KEY, credentials};
use verneuil_integration::setup::Setup;
use verneuil_integration::{paths, process};

use crate::libraries::{self, Sqlite};

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
    dialogue: Dialogue,
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
        let env = inner.get_envs();
        command.envs(env.filter_map(|(name, value)| Some((name, value?))));
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
        command
            .arg(paths::extension()?)
            .arg(uri)
            .envs(setup.env_with(&config))
            .envs(credentials(ACCESS_KEY, SECRET_KEY));
        let dialogue = Dialogue::start(command)?;
        Ok(Self { dialogue, program })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.dialogue.pid()
    }

    /// Tells it something without waiting for an answer.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.dialogue
            .say(&format!("{command}\n"))
            .with_context(|| format!("{:?}, told {command:?}", self.program))
    }

    /// Has it do something, and gives its answer.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.tell(command)?;
        self.answer().with_context(|| format!("asked {command:?}"))
    }

    /// The answer to what it was told.
    pub fn answer(&mut self) -> Result<String> {
        let line = self.dialogue.line();
        match line.with_context(|| format!("{:?}", self.program))? {
            Some(answer) => match answer.strip_prefix("ok") {
                Some(answer) => Ok(answer.trim().to_owned()),
                None => bail!("{:?}: {answer}", self.program),
            },
            None => bail!(
                "{:?} has closed its output: {}",
                self.program,
                self.complaints()
            ),
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
        Ok(kill(Pid::from_raw(self.pid().try_into()?), signal)?)
    }

    /// Waits for its end, which may take so long at most; how it ended, and how long that took.
    pub fn ends(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let begun = Instant::now();
        let status = self
            .dialogue
            .wait(limit)
            .with_context(|| format!("{:?}: {}", self.program, self.complaints()))?;
        Ok((status, begun.elapsed()))
    }

    /// Ends its input; it must end with success, and must not have said anything to standard error.
    pub fn finish(mut self) -> Result<()> {
        self.dialogue.hang_up();
        let (status, _) = self.ends(LINE_LIMIT)?;
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
        self.dialogue.complaints()
    }
}
