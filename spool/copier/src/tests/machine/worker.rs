//! The application: a process with a few connections, which does what it is told over a pipe, and can be killed. It is this test program again, at
//! [`worker`]; `run` holds the other end.

#[allow(unsafe_code)] // the function table of the linked SQLite, and the connection's last error
#[path = "../../../../../vfs/abi/tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use verneuil_config::{Config, DirectoryConfig, SpoolConfig, TargetConfig};
use verneuil_spool::{Database, Spool};
use verneuil_tracking::{Replication, ReplicationSetup, TrackingVfs};
use verneuil_unix::UnixOptions;

use super::mortal::{self, MortalVfs};

/// Says that this process is an application: its VFS (`verneuil` or `unix`), the directory, the boot id in hex and the number of targets.
const ROLE: &str = "VERNEUIL_STATE_MACHINE_WORKER";
/// Longest wait for an answer, on a machine that is busy with other tests.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Blobs are this long at most.
const BLOB_LEN_MAX_BYTES: usize = 8_000;

/// The targets that a database in `dir` is replicated to.
pub(super) fn targets(dir: &Path, count: usize) -> Vec<TargetConfig> {
    let target = |number| {
        TargetConfig::Directory(DirectoryConfig {
            path: dir.join(format!("store-{number}")),
        })
    };
    (0..count).map(target).collect()
}

/// The spool in `dir`, as boot number `boot` sees it.
pub(super) fn spool(dir: &Path, boot: u8) -> Spool {
    Spool::new(&SpoolConfig {
        dir: dir.join("spool"),
        permissions: 0o700,
    })
    .with_boot_id([boot; 16])
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done(String),
    /// SQLite's words.
    Failed(String),
    Died,
}

/// The other end of the pipe.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    pub(super) fn start(vfs: &str, dir: &Path, boot: u8, targets: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tests::machine::worker::worker", "--exact", "--nocapture"])
            .env(ROLE, format!("{vfs} {boot} {targets} {}", dir.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(answer) = line.strip_prefix('@')
                    && send.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self {
            child,
            input,
            lines,
        }
    }

    pub(super) fn ask(&mut self, command: &str) -> Answer {
        // A process that has died says nothing.
        drop(writeln!(self.input, "{command}"));
        match self.lines.recv_timeout(ANSWER_LIMIT) {
            Ok(line) => match line.split_once(' ') {
                Some(("done", text)) => Answer::Done(text.to_owned()),
                _ => Answer::Failed(line),
            },
            Err(_) => Answer::Died,
        }
    }
}

impl Drop for Process {
    /// `kill -9`.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Commits are spooled; the machine is the copier.
struct Spooled;

impl Replication for Spooled {
    fn serve(&self, _: &Arc<Database>) {}

    fn flush(&self, _: &Arc<Database>) -> Result<(), String> {
        Ok(())
    }

    fn flush_within(&self, _: &Arc<Database>, _: Duration) -> Result<(), String> {
        Ok(())
    }

    fn wait(&self, _: &Arc<Database>, _: Duration) -> Result<(), String> {
        Ok(())
    }

    fn status(&self, _: &Arc<Database>) -> String {
        String::new()
    }
}

/// Not a test: the application's side of the pipe, when it is started as such.
#[test]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let mut words = role.splitn(4, ' ');
    let mut word = || words.next().unwrap();
    let vfs = word();
    let (boot, count) = (word().parse().unwrap(), word().parse().unwrap());
    let dir = PathBuf::from(word());
    if vfs == "verneuil" {
        let config = Config::parse("{}", "the test").unwrap();
        let setup = ReplicationSetup {
            spool: spool(&dir, boot),
            hostname: "here".to_owned(),
            targets: targets(&dir, count),
            replicate: config.replicate,
            journal_wal: config.journal_wal,
            close_limit: Duration::ZERO,
            replication: Arc::new(Spooled),
        };
        verneuil_abi::register(common::api(), c"mortal", false, || {
            MortalVfs(TrackingVfs::new(UnixOptions::default(), Some(setup)))
        })
        .unwrap();
    }
    let vfs = if vfs == "verneuil" {
        c"mortal"
    } else {
        c"unix"
    };
    let mut connections = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let answer = match obey(&mut connections, &dir.join("x.db"), vfs, &line.unwrap()) {
            Ok(text) => format!("\n@done {text}"),
            Err(error) => format!("\n@failed {}", error.to_string().replace('\n', " ")),
        };
        println!("{answer}");
        std::io::stdout().flush().unwrap();
    }
    // Closed like those of any process that ends.
    drop(connections);
    std::process::exit(0);
}

fn obey(
    connections: &mut HashMap<u8, Connection>,
    path: &Path,
    vfs: &std::ffi::CStr,
    line: &str,
) -> rusqlite::Result<String> {
    let mut words = line.splitn(3, ' ');
    let (what, slot) = (words.next().unwrap(), words.next().unwrap_or("0"));
    let (slot, rest) = (slot.parse().unwrap(), words.next().unwrap_or(""));
    match what {
        "open" => {
            let db = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs)?;
            db.busy_timeout(Duration::ZERO)?;
            db.execute_batch(rest)?;
            connections.insert(slot, db);
        }
        "close" => drop(connections.remove(&slot)),
        "die" => {
            let mut numbers = rest.split(' ').map(|number| number.parse().unwrap());
            mortal::die_at(numbers.next().unwrap(), numbers.next().unwrap());
        }
        "put" => {
            let numbers: Vec<u64> = rest.split(' ').map(|n| n.parse().unwrap()).collect();
            put(&connections[&slot], numbers.try_into().unwrap())?;
        }
        "exec" => connections[&slot].execute_batch(rest)?,
        "row" => {
            return connections[&slot].query_row(rest, [], |row| {
                let value: rusqlite::types::Value = row.get(0)?;
                Ok(format!("{value:?}"))
            });
        }
        other => unreachable!("{other}"),
    }
    let is_writing = connections.get(&slot).is_some_and(|db| !db.is_autocommit());
    Ok(is_writing.to_string())
}

/// Rows `first..first + count` become blobs of `len` bytes; in a transaction of its own, unless there is one.
fn put(db: &Connection, [first, count, len, seed]: [u64; 4]) -> rusqlite::Result<()> {
    let is_own = db.is_autocommit();
    if is_own {
        db.execute_batch("BEGIN IMMEDIATE")?;
    }
    let result = (|| {
        db.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, n INT, x BLOB)")?;
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut blob = vec![0u8; (len as usize).min(BLOB_LEN_MAX_BYTES)];
        let mut statement = db.prepare("INSERT OR REPLACE INTO t VALUES(?1, ?2, ?3)")?;
        for id in first..first + count {
            for byte in &mut blob {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                *byte = (random >> 32) as u8;
            }
            statement.execute(rusqlite::params![id as i64, seed as i64, blob])?;
        }
        drop(statement);
        if is_own {
            db.execute_batch("COMMIT")?;
        }
        Ok(())
    })();
    if is_own && result.is_err() && !db.is_autocommit() {
        db.execute_batch("ROLLBACK")?;
    }
    result
}
