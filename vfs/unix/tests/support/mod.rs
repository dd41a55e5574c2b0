//! What the tests of the `linux` VFS share: registering it, connections, and stock SQLite in another process.

#![allow(dead_code)] // each test file uses its part

#[path = "../../../abi/tests/common/mod.rs"]
mod common;
pub mod forked;
pub mod world;

#[allow(unused_imports)]
pub use common::api;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use verneuil_unix::{UnixOptions, UnixVfs};

/// Registers `linux` with rusqlite's SQLite.
pub fn register() {
    verneuil_abi::register(common::api(), c"linux", false, || {
        UnixVfs::new(UnixVfs::NAME, UnixOptions::default())
    })
    .unwrap();
}

/// A connection through the `linux` VFS.
pub fn linux(path: &Path) -> Connection {
    register();
    Connection::open_with_flags_and_vfs(path, OpenFlags::default(), c"linux").unwrap()
}

/// A connection through SQLite's own VFS, in this process.
pub fn stock(path: &Path) -> Connection {
    Connection::open_with_flags_and_vfs(path, OpenFlags::default(), c"unix").unwrap()
}

/// Either of them.
pub type Opener = fn(&Path) -> Connection;

/// Is this the error of somebody else's lock?
pub fn is_busy<T>(result: rusqlite::Result<T>) -> bool {
    result.is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
}

/// `<database>-journal`.
pub fn journal_of(path: &Path) -> PathBuf {
    beside(path, "-journal")
}

/// The file whose name is that of the database with something behind it.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The first column of the first row, as text; `ok` for none; `error <extended code>`.
pub fn answer(db: &Connection, sql: &str) -> String {
    match run(db, sql) {
        Ok(Some(value)) => value,
        Ok(None) => "ok".to_owned(),
        Err(error) => match error.sqlite_error() {
            Some(error) => format!("error {}", error.extended_code),
            None => error.to_string(),
        },
    }
}

/// Another process, which opens the database with one of the VFSes and runs SQL as it is told: this test binary again,
/// running only [`serve_sql`].
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const PEER: &str = "VERNEUIL_TEST_PEER";
const CLOSE: &str = "close";

impl Peer {
    pub fn start(vfs: &str, database: &Path) -> Peer {
        Peer::spawn(
            Command::new(std::env::current_exe().unwrap()),
            vfs,
            database,
        )
    }

    /// A process whose files can't grow beyond so many blocks of 512 bytes: writes are cut short, then fail.
    pub fn start_limited(vfs: &str, database: &Path, file_blocks: u32) -> Peer {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(format!(
                "trap '' XFSZ; ulimit -f {file_blocks}; exec \"$0\" \"$@\""
            ))
            .arg(std::env::current_exe().unwrap());
        Peer::spawn(shell, vfs, database)
    }

    fn spawn(mut command: Command, vfs: &str, database: &Path) -> Peer {
        let mut child = command
            .args(["--exact", "peer", "--nocapture"])
            .env(PEER, format!("{vfs}:{}", database.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut peer = Peer {
            child,
            input,
            output,
        };
        assert_eq!(peer.answer(), "ready");
        peer
    }

    /// The first column of the first row, `ok` for none, or `error: …`.
    pub fn run(&mut self, sql: &str) -> String {
        writeln!(self.input, "{sql}").unwrap();
        self.answer()
    }

    /// As [`Peer::run`], for a process that somebody kills: none when it is dead.
    pub fn try_run(&mut self, sql: &str) -> Option<String> {
        writeln!(self.input, "{sql}").ok()?;
        self.try_answer()
    }

    /// Its process number.
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().cast_signed())
    }

    /// The connection is closed, then the process ends.
    pub fn close(mut self) {
        writeln!(self.input, "{CLOSE}").unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// The process dies without any chance to clean up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn answer(&mut self) -> String {
        self.try_answer().expect("the peer died")
    }

    fn try_answer(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).ok()? == 0 || !line.ends_with('\n') {
                return None;
            }
            // The test harness prints, too.
            if let Some((_, answer)) = line.trim_end().split_once("peer> ") {
                return Some(answer.to_owned());
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the test named `peer` in each file that uses [`Peer`]; does nothing when it runs as a test.
pub fn serve_sql() {
    let Ok(what) = std::env::var(PEER) else {
        return;
    };
    let (vfs, path) = what.split_once(':').unwrap();
    let db = if vfs == "linux" {
        linux(Path::new(path))
    } else {
        stock(Path::new(path))
    };
    println!("\npeer> ready");
    for sql in std::io::stdin().lines() {
        let sql = sql.unwrap();
        if sql == CLOSE {
            break;
        }
        let answer = match run(&db, &sql) {
            Ok(Some(value)) => value,
            Ok(None) => "ok".to_owned(),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                "busy".to_owned()
            }
            Err(_) => "error".to_owned(),
        };
        println!("peer> {answer}");
    }
    drop(db);
    std::process::exit(0);
}

fn run(db: &Connection, sql: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut first = None;
    while let Some(row) = rows.next()? {
        if first.is_none() {
            let value: rusqlite::types::Value = row.get(0)?;
            first = Some(match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            });
        }
    }
    Ok(first)
}
