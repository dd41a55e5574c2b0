//! What the rollback journal beside a database says: asked by the writer's end of transaction and before each of the copier's slices.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// State of the file `<database>-journal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// There is none.
    None,
    /// There is one, but its transaction is over: it is empty (`journal_mode=TRUNCATE`) or begins with a zero (`PERSIST`).
    Finished,
    /// There is one that a transaction uses, or that one left behind: if no RESERVED lock is held, the database must be rolled back.
    Live,
}

/// Path of the rollback journal of `database`.
pub fn journal_path(database: &Path) -> PathBuf {
    let mut name = OsString::from(database);
    name.push("-journal");
    PathBuf::from(name)
}

/// Looks at the rollback journal of `database`. One system call when there is none.
///
/// # Errors
/// When the journal exists and can't be read (so that nobody can tell).
pub fn journal_state(database: &Path) -> io::Result<Journal> {
    let file = match File::open(journal_path(database)) {
        Ok(file) => file,
        // Nobody can make one whose name is too long.
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) =>
        {
            return Ok(Journal::None);
        }
        Err(error) => return Err(error),
    };
    let mut first = [0u8];
    loop {
        return match file.read_at(&mut first, 0) {
            Ok(0) => Ok(Journal::Finished),
            Ok(_) if first[0] == 0 => Ok(Journal::Finished),
            Ok(_) => Ok(Journal::Live),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Whether the journal is there, non-empty, and doesn't begin with a zero. That is sqlite's "hot" for a caller that knows that no RESERVED
/// lock is held, or that holds it itself.
///
/// # Errors
/// As [`journal_state`].
pub fn journal_is_hot(database: &Path) -> io::Result<bool> {
    Ok(journal_state(database)? == Journal::Live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_whose_name_leaves_no_room_for_a_journals_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let longest = dir.path().join("n".repeat(255));
        File::create(&longest).unwrap();
        assert_eq!(journal_state(&longest).unwrap(), Journal::None);
    }
}
