//! The sqlite programs that the products must get along with, as one kind of session: statements in, rows out.
//! The tests open sessions; `programs/session.py` and `bin/verneuil-test-sqlite.rs` are two of the programs behind them.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::boot::Boot;
use crate::dialogue::{Dialogue, LINE_LIMIT};
use crate::paths;
use crate::process;

/// A program that contains an sqlite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The system's `sqlite3` shell.
    Shell,
    /// Python's `sqlite3` module.
    Python,
    /// rusqlite with its bundled sqlite.
    Rusqlite,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Shell, Self::Python, Self::Rusqlite];

    fn command(self, uri: &str, load: bool) -> Result<Command> {
        let extension = if load {
            Some(paths::extension()?)
        } else {
            None
        };
        let mut command;
        match self {
            Self::Shell => {
                command = process::tied(paths::system_program("sqlite3", "sqlite3")?);
                command.args(["-batch", "-bail", ":memory:"]);
                // The loading and opening are its first lines of input.
                return Ok(command);
            }
            Self::Python => {
                command = process::tied(paths::python()?);
                command.args(["-c", include_str!("../programs/session.py"), uri]);
            }
            Self::Rusqlite => {
                command = process::tied(paths::bundled_sqlite()?);
                command.args(["session", uri]);
            }
        }
        command.args(extension);
        Ok(command)
    }
}

/// What a session is opened with.
#[derive(Clone, Debug)]
pub struct Opening<'a> {
    /// A `file:` URI.
    pub uri: &'a str,
    /// Whether the extension is loaded before.
    pub load: bool,
    /// Additional environment.
    pub env: &'a [(String, String)],
}

/// One running program with one open connection. The first statement that fails ends it, as with `sqlite3 -bail`.
#[derive(Debug)]
pub struct Session {
    program: Program,
    dialogue: Dialogue,
    batches: u64,
}

impl Session {
    /// Starts the program and opens the connection.
    ///
    /// # Errors
    /// With the program's own words, if it can't load the extension or open the database.
    pub fn open(program: Program, opening: &Opening<'_>) -> Result<Self> {
        Self::start(program, opening, None)
    }

    /// As [`Session::open`], on a machine that has been rebooted.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_after_reboot(program: Program, opening: &Opening<'_>, boot: &Boot) -> Result<Self> {
        Self::start(program, opening, Some(boot))
    }

    fn start(program: Program, opening: &Opening<'_>, boot: Option<&Boot>) -> Result<Self> {
        let mut command = program.command(opening.uri, opening.load)?;
        command.envs(opening.env.iter().map(|(name, value)| (name, value)));
        if let Some(boot) = boot {
            command = boot.wrap(&command);
        }
        let mut session = Self {
            program,
            dialogue: Dialogue::start(command)?,
            batches: 0,
        };
        if program == Program::Shell {
            let mut lines = Vec::new();
            if opening.load {
                lines.push(format!(".load {}", paths::extension()?.display()));
            }
            lines.push(format!(".open '{}'", opening.uri));
            session.rows(&lines)?;
        }
        session.rows(&["PRAGMA busy_timeout=20000".to_owned()])?;
        Ok(session)
    }

    /// Which program this is.
    #[must_use]
    pub fn program(&self) -> Program {
        self.program
    }

    /// Process id of the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.dialogue.pid()
    }

    /// Runs statements, one per line, and gives the rows of all of them, columns joined by `|`.
    ///
    /// # Errors
    /// With the program's own words if one fails; the session is over then.
    pub fn rows<S: AsRef<str>>(&mut self, statements: &[S]) -> Result<Vec<String>> {
        self.batches += 1;
        let end = format!("@end {}", self.batches);
        let mut text = String::new();
        for statement in statements {
            let statement = statement.as_ref();
            ensure!(!statement.contains('\n'), "one statement per line");
            text.push_str(statement);
            if self.program == Program::Shell
                && !statement.starts_with('.')
                && !statement.trim_end().ends_with(';')
            {
                text.push(';');
            }
            text.push('\n');
        }
        text.push_str(&format!(".print {end}\n"));
        let sent = self.dialogue.say(&text);
        let mut rows = Vec::new();
        loop {
            let line = self.dialogue.line();
            match line.with_context(|| format!("{:?}", self.program))? {
                Some(line) if line == end => return Ok(rows),
                Some(line) => rows.push(line),
                None => {
                    let status = self.dialogue.wait(LINE_LIMIT)?;
                    let last = statements.last().map_or("", AsRef::as_ref);
                    bail!(
                        "{:?} ended ({status}) at or before {last:?}: {}",
                        self.program,
                        self.complaints()
                    );
                }
            }
            if let Err(error) = &sent
                && error.kind() != ErrorKind::BrokenPipe
            {
                bail!("{:?}: {error}", self.program);
            }
        }
    }

    /// Runs statements whose rows nobody wants.
    ///
    /// # Errors
    /// As [`Session::rows`].
    pub fn run<S: AsRef<str>>(&mut self, statements: &[S]) -> Result<()> {
        self.rows(statements).map(drop)
    }

    /// The first row of one statement, or the empty string.
    ///
    /// # Errors
    /// As [`Session::rows`].
    pub fn row(&mut self, statement: &str) -> Result<String> {
        Ok(self
            .rows(&[statement])?
            .into_iter()
            .next()
            .unwrap_or_default())
    }

    /// What the program has written to standard error up to now.
    #[must_use]
    pub fn complaints(&self) -> String {
        self.dialogue.complaints()
    }

    /// Closes the connection and waits for the program's end; gives what it wrote to standard error.
    ///
    /// # Errors
    /// When it does not exit with success.
    pub fn close(mut self) -> Result<String> {
        self.dialogue.hang_up();
        let status = self.dialogue.wait(LINE_LIMIT)?;
        ensure!(
            status.success(),
            "{:?} ended with {status}: {}",
            self.program,
            self.complaints()
        );
        Ok(self.complaints())
    }

    /// Ends the program with `kill -9`.
    pub fn kill(self) {
        drop(self);
    }
}
