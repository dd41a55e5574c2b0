//! Scripts for databases, played on `linux` and on `unix`; used by `compare`.

use super::{answer, beside, register};
use libsqlite3_sys as ffi;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

/// One of the two, with up to three connections to one database.
pub struct World {
    vfs: &'static str,
    pub dir: tempfile::TempDir,
    connections: BTreeMap<char, Connection>,
}

impl World {
    pub fn new(vfs: &'static str) -> World {
        register();
        World {
            vfs,
            dir: tempfile::tempdir().unwrap(),
            connections: BTreeMap::new(),
        }
    }

    /// Of the database.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("x.db")
    }

    /// A connection: read-only, without creation, or with parameters.
    pub fn open(&self, how: &str) -> rusqlite::Result<Connection> {
        let path = self.path();
        let (flags, uri) = match how {
            "ro" => (OpenFlags::SQLITE_OPEN_READ_ONLY, String::new()),
            "rw" => (OpenFlags::SQLITE_OPEN_READ_WRITE, String::new()),
            _ => (
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
                how.to_owned(),
            ),
        };
        let name = format!("file:{}?{uri}", path.display());
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        let vfs = std::ffi::CString::new(self.vfs).unwrap();
        let db = Connection::open_with_flags_and_vfs(name, flags, vfs.as_c_str())?;
        db.busy_timeout(Duration::ZERO).unwrap();
        Ok(db)
    }

    /// `a: SQL`, `a+ parameters` opens, `a-` closes, `a# control value` is a file control, `! deed` is done to the files.
    pub fn step(&mut self, step: &str) -> String {
        if let Some(deed) = step.strip_prefix("! ") {
            return self.deed(deed);
        }
        let (who, what) = step.split_at(1);
        let who = who.chars().next().unwrap();
        if let Some(how) = what.strip_prefix('+') {
            return match self.open(how.trim()) {
                Ok(db) => {
                    self.connections.insert(who, db);
                    "opened".to_owned()
                }
                Err(error) => format!(
                    "{:?}",
                    error.sqlite_error().map(|error| error.extended_code)
                ),
            };
        }
        if what == "-" {
            return match self.connections.remove(&who).unwrap().close() {
                Ok(()) => "closed".to_owned(),
                Err((_, error)) => error.to_string(),
            };
        }
        let db = &self.connections[&who];
        if let Some(control) = what.strip_prefix("# ") {
            let (op, value) = control.split_once(' ').unwrap();
            return file_control(db, op.parse().unwrap(), value.parse().unwrap());
        }
        answer(db, what.strip_prefix(": ").unwrap())
    }

    fn deed(&self, deed: &str) -> String {
        let path = self.path();
        let dir = self.dir.path();
        match deed.split_once(' ').unwrap_or((deed, "")) {
            ("chmod", mode) => {
                let mode = u32::from_str_radix(mode, 8).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            ("rename", to) => fs::rename(&path, dir.join(to)).unwrap(),
            ("remove", suffix) => fs::remove_file(beside(&path, suffix)).unwrap(),
            ("garbage", suffix) => fs::write(beside(&path, suffix), vec![0x5a; 5000]).unwrap(),
            ("mkdir", suffix) => fs::create_dir(beside(&path, suffix)).unwrap(),
            other => panic!("{other:?}"),
        }
        String::new()
    }

    /// Names, lengths and modes.
    fn files(&self) -> Vec<(String, u64, u32)> {
        let mut files: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                let len = if metadata.is_dir() { 0 } else { metadata.len() };
                let name = entry.file_name().into_string().unwrap();
                (name, len, metadata.mode())
            })
            .collect();
        files.sort();
        files
    }
}

/// A file control that takes an int or a 64-bit number, initialised with `value`.
fn file_control(db: &Connection, op: i32, value: i64) -> String {
    let mut value = value;
    // SAFETY: an open connection; eight bytes, of which a control that takes an int uses the first four.
    let code = unsafe {
        ffi::sqlite3_file_control(db.handle(), c"main".as_ptr(), op, (&raw mut value).cast())
    };
    let shown = match op {
        ffi::SQLITE_FCNTL_MMAP_SIZE | ffi::SQLITE_FCNTL_SIZE_HINT => value,
        _ => i64::from(value as i32),
    };
    format!("{code} {shown}")
}

/// Runs a script with both, and compares after each step.
pub fn compare(script: &str) {
    let mut worlds = [World::new("linux"), World::new("unix")];
    let mut history = Vec::new();
    for step in script
        .lines()
        .map(str::trim)
        .filter(|step| !step.is_empty())
    {
        let [ours, theirs] = worlds
            .each_mut()
            .map(|world| (world.step(step), world.files()));
        history.push(format!("{step} -> {}", theirs.0));
        assert_eq!(ours, theirs, "after\n{}", history.join("\n"));
    }
    // And the databases say the same.
    let [ours, theirs] = worlds.each_mut().map(|world| {
        world.connections.clear();
        world.files()
    });
    assert_eq!(
        ours,
        theirs,
        "after all was closed:\n{}",
        history.join("\n")
    );
}
