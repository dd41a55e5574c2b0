//! The machine of one case: real processes (`worker`), a real copier (`carrier`) and real files, the `model` beside them, and how a case ends; `act` does
//! what the `steps` say.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use verneuil_spool::Spool;

use crate::error::Blocked;
use crate::lane::Tried;
use crate::pass::Outcome;

use super::super::trial;
use super::carrier::{Carrier, Turn};
use super::model::Model;
use super::steps::{CONNECTIONS, FOREIGN, PROCESS_OF, PROCESSES, Setup};
use super::worker::{self, Answer, Process};

/// How long the copier is given while somebody holds a lock that it may have to wait for.
const WAIT_LIMIT: Duration = Duration::from_millis(25);
/// The same, when nobody is in its way: to be reached only if it hangs.
const WORK_LIMIT: Duration = Duration::from_secs(40);
/// Attempts until nothing is pending, with nobody in the way.
const ATTEMPTS_MAX: usize = 40;
/// Beyond this, the next transaction of the same size overflows the log.
const LARGE_LOG_BYTES: u64 = 6 << 20;
/// What SQLite may say to a statement; everything else would be our fault.
const REFUSALS: [&str; 7] = [
    "locked",
    "readonly",
    "no transaction is active",
    "within a transaction",
    "cannot VACUUM",
    "SQL statements in progress",
    "no such table",
];

#[derive(Clone, Copy, Default)]
pub(super) struct Connection {
    pub(super) is_open: bool,
    pub(super) is_in_transaction: bool,
    pub(super) is_exclusive: bool,
    /// The file that it has open is not behind the name any more.
    pub(super) is_stale: bool,
}

/// How often what happened, to see that the cases are not empty.
pub(super) type Counts = BTreeMap<&'static str, u64>;

pub(super) struct Machine {
    pub(super) dir: TempDir,
    pub(super) setup: Setup,
    boot: u8,
    pub(super) processes: [Option<Process>; PROCESSES],
    pub(super) connections: [Connection; CONNECTIONS],
    pub(super) carrier: Carrier,
    pub(super) model: Model,
    /// Grows with each write, so that no two write the same.
    pub(super) number: u64,
    pub(super) counts: Counts,
}

/// In memory, where there is such a place: every commit is synced.
fn directory() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() {
        tempfile::tempdir_in(in_memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

impl Machine {
    pub(super) fn new(setup: &Setup) -> Self {
        let dir = directory();
        let targets = worker::targets(dir.path(), setup.targets);
        trial::end();
        Self {
            setup: setup.clone(),
            boot: 1,
            processes: Default::default(),
            connections: Default::default(),
            carrier: Carrier::new(&targets),
            model: Model::new(dir.path().join("x.db"), &targets),
            dir,
            number: 0,
            counts: Counts::default(),
        }
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn path(&self) -> &Path {
        &self.model.path
    }

    pub(super) fn spool(&self) -> Spool {
        worker::spool(self.dir.path(), self.boot)
    }

    /// What is committed now and what is published, after every step.
    pub(super) fn check(&mut self) -> Result<(), String> {
        if self.model.observe() {
            self.count("states");
        }
        let news = self.model.check_targets()?;
        *self.counts.entry("manifests").or_default() += news;
        let used = self.model.check_spool(&self.dir.path().join("spool"))?;
        if used > LARGE_LOG_BYTES {
            self.count("large logs");
        }
        Ok(())
    }

    /// Sends a command to a connection, which is opened if it must be. `None`: SQLite refused, or the process died.
    pub(super) fn tell(&mut self, who: usize, command: &str) -> Result<Option<String>, String> {
        let process = PROCESS_OF[who];
        // SQLite, with any VFS, would take the next file's journal for the old one's, play it back into that, and remove it.
        if self.connections[who].is_stale && self.model.is_journal_live() {
            return Ok(None);
        }
        if self.processes[process].is_none() {
            let vfs = if who == FOREIGN { "unix" } else { "verneuil" };
            self.processes[process] = Some(Process::start(
                vfs,
                self.dir.path(),
                self.boot,
                self.setup.targets,
            ));
        }
        if !self.connections[who].is_open {
            let Setup {
                page_len,
                auto_vacuum,
                caches,
                ..
            } = &self.setup;
            let open = format!(
                "open {who} PRAGMA page_size={page_len}; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA cache_size={}",
                caches[who]
            );
            if self.ask(who, &open)?.is_none() {
                return Ok(None);
            }
            self.connections[who].is_open = true;
        }
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        self.ask(who, &format!("{verb} {who} {rest}"))
    }

    pub(super) fn ask(&mut self, who: usize, command: &str) -> Result<Option<String>, String> {
        let process = PROCESS_OF[who];
        let Some(pipe) = &mut self.processes[process] else {
            return Ok(None);
        };
        let answer = pipe.ask(command);
        // The next command may hide what this one has committed.
        if self.model.observe() {
            self.count("states");
        }
        match answer {
            Answer::Done(text) => {
                self.connections[who].is_in_transaction = text == "true";
                Ok(Some(text))
            }
            Answer::Failed(error) => {
                // What SQLite says of a file that lost its name, and of the journal that somebody left beside it, is its own affair: with `unix` it says
                // the same.
                let is_known = REFUSALS.iter().any(|refusal| error.contains(refusal))
                    || self.connections[who].is_stale && error.contains("disk I/O error");
                if !is_known {
                    return Err(format!("P1: {command:?} by {who}: {error}"));
                }
                if self.connections[who].is_stale {
                    self.tell(who, "close")?;
                    self.connections[who] = Connection::default();
                }
                Ok(None)
            }
            Answer::Died => {
                self.count("deaths in a call");
                if self.model.is_journal_live() {
                    self.count("hot journals");
                }
                self.kill(process);
                Ok(None)
            }
        }
    }

    pub(super) fn kill(&mut self, process: usize) {
        self.processes[process] = None;
        for (connection, of) in self.connections.iter_mut().zip(PROCESS_OF) {
            if of == process {
                *connection = Connection::default();
            }
        }
    }

    pub(super) fn reboot(&mut self) {
        self.carrier.kill();
        (0..PROCESSES).for_each(|process| self.kill(process));
        self.boot += 1;
    }

    /// Whether the copier may have to wait for somebody.
    pub(super) fn is_held(&self) -> bool {
        self.connections
            .iter()
            .any(|connection| connection.is_in_transaction || connection.is_exclusive)
    }

    /// The copier goes on with a target.
    pub(super) fn copy(
        &mut self,
        target: usize,
        points: Option<u32>,
    ) -> Result<Option<Tried>, String> {
        let limit = if self.is_held() {
            WAIT_LIMIT
        } else {
            WORK_LIMIT
        };
        let (spool, path) = (self.spool(), self.path().to_owned());
        let turn = self
            .carrier
            .turn(&spool, &path, target, false, (points, limit))?;
        Ok(match turn {
            Turn::NoSpool => None,
            Turn::Stopped if points.is_none() && limit == WORK_LIMIT => {
                return Err(format!("P4: the copier of target {target} hangs"));
            }
            Turn::Stopped => {
                self.count("copier stopped");
                None
            }
            Turn::Ended(tried, _) => {
                self.count(match &tried {
                    Tried::Outcome(Outcome::Published) => "published",
                    Tried::Outcome(Outcome::Idle) => "idle",
                    Tried::Outcome(Outcome::Blocked(Blocked::HotJournal)) => {
                        "blocked by a hot journal"
                    }
                    Tried::Outcome(Outcome::Blocked(_)) => "blocked",
                    Tried::Elsewhere => "elsewhere",
                    Tried::Failed(_) => "copier failed",
                });
                Some(tried)
            }
        })
    }

    /// A flush of one target: `Some(true)` if it says that all is there, `None` if it could not be told in time.
    fn flush(&mut self, target: usize) -> Result<Option<Result<(), String>>, String> {
        let limit = if self.is_held() {
            WAIT_LIMIT
        } else {
            WORK_LIMIT
        };
        let (spool, path) = (self.spool(), self.path().to_owned());
        loop {
            let turn = self
                .carrier
                .turn(&spool, &path, target, true, (None, limit))?;
            match turn {
                Turn::NoSpool => return Ok(None),
                Turn::Stopped if limit == WORK_LIMIT => {
                    return Err(format!("P4: the flush of target {target} hangs"));
                }
                Turn::Stopped => {
                    self.carrier.kill();
                    return Ok(None);
                }
                Turn::Ended(_, None) => {}
                Turn::Ended(_, Some(answer)) => {
                    return Ok(Some(answer.map_err(|error| error.to_string())));
                }
            }
        }
    }

    pub(super) fn flush_all(&mut self) -> Result<(), String> {
        for target in 0..self.setup.targets {
            let is_well = !trial::is_faulty(&self.model.targets[target].name);
            let is_torn = self.model.targets[target].is_torn;
            let answer = self.flush(target)?;
            self.check()?;
            match answer {
                Some(Ok(())) => {
                    self.count("flushed");
                    self.model.check_complete(target)?;
                }
                Some(Err(error)) => {
                    self.count("flush failed");
                    let is_due = is_well
                        && !is_torn
                        && !self.is_held()
                        && !self.model.is_missing
                        && !self.model.is_journal_live();
                    if is_due {
                        return Err(format!("P4: nothing is in the way of a flush: {error}"));
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// All is well again, and what was committed arrives: by a flush alone, or by one more commit and the copier's ordinary turns. Then SQLite has the
    /// last word.
    pub(super) fn finish(&mut self, by_flush: bool) -> Result<(), String> {
        for who in 0..CONNECTIONS {
            self.close(who)?;
        }
        // Nobody is to die any more.
        (0..PROCESSES).for_each(|process| self.kill(process));
        let mut is_lost = false;
        for target in &mut self.model.targets {
            trial::mend(&target.name);
            if target.is_torn {
                // Whoever finds that out takes the manifest away.
                drop(std::fs::remove_file(target.manifest_path()));
                target.is_lost = true;
            }
            is_lost |= target.is_lost;
        }
        // Rolls back what there is to roll back.
        self.tell(0, "exec SELECT count(*) FROM sqlite_schema")?;
        self.check()?;
        if by_flush && !is_lost {
            self.flush_all()?;
        } else {
            self.put(0, 1, 1, 10)?;
            self.check()?;
            for target in 0..self.setup.targets {
                self.until_idle(target)?;
            }
        }
        for target in 0..self.setup.targets {
            if self.model.targets[target].is_lost {
                return Err(format!("P4: target {target} was not filled again"));
            }
            self.model.check_complete(target)?;
        }
        let verdict = self.tell(FOREIGN, "row PRAGMA integrity_check")?;
        if verdict.as_deref() != Some("Text(\"ok\")") {
            return Err(format!("P1: integrity_check says {verdict:?}"));
        }
        Ok(())
    }

    fn until_idle(&mut self, target: usize) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let tried = self.copy(target, None)?;
            self.check()?;
            match tried {
                Some(Tried::Outcome(Outcome::Idle)) => return Ok(()),
                Some(Tried::Outcome(outcome)) => last = format!("{outcome:?}"),
                Some(Tried::Failed(error)) => last = error.to_string(),
                Some(Tried::Elsewhere) | None => {}
            }
        }
        Err(format!("P4: target {target} does not come to rest: {last}"))
    }
}
