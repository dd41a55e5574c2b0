//! What the modules of crash points share: committed states as stock SQLite leaves them, and what has to hold after a death.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use verneuil_integration::process::Finished;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{HOST, Setup};
use verneuil_integration::state::same_bytes;

/// All rows of all tables, after a check of the file: the same for two files if they are the same committed state, whatever their free
/// pages hold. An empty file is the state before the first transaction.
pub fn content(file: &Path) -> Result<String> {
    let name = file.display();
    if std::fs::metadata(file)
        .with_context(|| format!("{name}"))?
        .len()
        == 0
    {
        return Ok(String::new());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)?;
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(verdict == "ok", "{name} is damaged: {verdict}");
    let mut text = String::new();
    let tables = "SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name";
    let mut tables = connection.prepare(tables)?;
    for table in tables.query_map([], |row| row.get::<_, String>(0))? {
        let table = table?;
        text.push_str(&format!("table {table}\n"));
        let mut rows = connection.prepare(&format!("SELECT * FROM {table} ORDER BY rowid"))?;
        let columns = rows.column_count();
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match row.get_ref(column)? {
                    ValueRef::Blob(bytes) | ValueRef::Text(bytes) => {
                        text.push_str(&String::from_utf8_lossy(bytes));
                    }
                    other => text.push_str(&format!("{other:?}")),
                }
                text.push('|');
            }
            text.push('\n');
        }
    }
    Ok(text)
}

/// The states of a database before and after one transaction, by stock SQLite.
#[derive(Debug)]
pub struct Reference {
    /// Before the prelude.
    pub base: String,
    pub old: String,
    pub new: String,
}

impl Reference {
    /// Runs the statements without the extension.
    pub fn of(
        setup: &Setup,
        before: &[&str],
        prelude: &[&str],
        transaction: &[&str],
    ) -> Result<Self> {
        let file = setup.path("stock.db");
        let uri = format!("file:{}", file.display());
        let opening = Opening {
            uri: &uri,
            load: false,
            env: &[],
        };
        let mut session = Session::open(Program::Rusqlite, &opening)?;
        let copy = setup.path("stock-before.db");
        let now = || {
            std::fs::copy(&file, &copy)?;
            content(&copy)
        };
        session.run(before)?;
        let base = now()?;
        session.run(prelude)?;
        let old = now()?;
        session.run(transaction)?;
        session.close()?;
        Ok(Self {
            base,
            old,
            new: content(&file)?,
        })
    }

    /// Which of the two a file is.
    pub fn state(&self, file: &Path) -> Result<State> {
        let found = content(file)?;
        if found == self.new {
            Ok(State::New)
        } else if found == self.old {
            Ok(State::Old)
        } else {
            bail!("{} is no committed state", file.display())
        }
    }
}

/// A committed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Old,
    New,
}

/// Whether the database has a journal with content.
pub fn has_hot_journal(database: &Path) -> bool {
    let journal = format!("{}-journal", database.display());
    std::fs::read(journal).is_ok_and(|bytes| bytes.first().is_some_and(|first| *first != 0))
}

/// The version in the store, restored; `None` if there is none.
pub fn published(setup: &Setup) -> Result<Option<std::path::PathBuf>> {
    if !setup.manifest_file(&setup.database())?.exists() {
        return Ok(None);
    }
    let out = setup.path("published.db");
    setup.restore(&setup.database(), &out)?;
    Ok(Some(out))
}

/// `verneuilctl flush`, whatever it answers.
pub fn flush(setup: &Setup) -> Result<Finished> {
    setup.ctl(&["flush", &setup.spool().to_string_lossy()])
}

/// Right after a death, with nobody there to recover: either flush uploads what the file holds, or it names the hot journal.
pub fn flush_is_honest(setup: &Setup) -> Result<()> {
    let is_hot = has_hot_journal(&setup.database());
    let done = flush(setup)?;
    if done.status.success() {
        ensure!(!is_hot, "flush succeeded beside a hot journal");
        return is_published(setup);
    }
    ensure!(
        is_hot && done.stderr.contains("journal"),
        "flush failed, hot journal: {is_hot}: {}",
        done.stderr
    );
    Ok(())
}

/// The store holds the file byte for byte.
pub fn is_published(setup: &Setup) -> Result<()> {
    let out = published(setup)?.context("there is no version in the store")?;
    same_bytes(&setup.database(), &out)
}

/// The arguments of a restore.
pub fn restore_arguments(setup: &Setup, out: &Path) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut arguments: Vec<String> = vec!["restore".to_owned(), "-s".to_owned()];
    arguments.extend([
        text(&setup.database()),
        "--hostname".to_owned(),
        HOST.to_owned(),
    ]);
    arguments.extend(["-o".to_owned(), text(out)]);
    arguments
}

/// How many points are tried at once: a death waits for disks and processes more than it computes.
const WORKERS: usize = 2;

/// Calls `point` with each number from 1 to `calls`; gives what it answered, and tells all failures at once: one must not hide the others.
pub fn each_point<T: Send>(
    what: &str,
    calls: usize,
    point: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(1);
    let work = || {
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        loop {
            let at = next.fetch_add(1, Ordering::SeqCst);
            if at > calls {
                return (answers, failures);
            }
            match point(at) {
                Ok(answer) => answers.push(answer),
                Err(error) => failures.push(format!("{what}, point {at} of {calls}: {error:#}")),
            }
        }
    };
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (answered, failed) = worker.join().map_err(|_| anyhow!("a worker panicked"))?;
            answers.extend(answered);
            failures.extend(failed);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    eprintln!("{what}: {calls} points");
    ensure!(
        failures.is_empty(),
        "{} of {calls}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(answers)
}
