//! xFullPathname: absolute paths without `.`, `..` and symbolic links, of files that need not exist; called by
//! `vfs`.

use nix::errno::Errno;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use verneuil_abi::FullPathname;
use verneuil_abi::vfs::MAX_PATH_LEN_BYTES;

/// How many symbolic links may be followed on the way; SQLite's own limit.
const MAX_SYMLINKS: u32 = 200;

/// Resolves `path` component by component, against the working directory if it is relative.
///
/// # Errors
/// `ELOOP`, `ENAMETOOLONG`, or what the system says about a component (except that it does not exist).
pub(crate) fn full_pathname(path: &Path) -> io::Result<FullPathname> {
    let mut walk = Walk {
        out: Vec::with_capacity(256),
        symlinks: 0,
    };
    if !path.is_absolute() {
        walk.push_all(std::env::current_dir()?.as_os_str())?;
    }
    walk.push_all(path.as_os_str())?;
    if walk.out.is_empty() {
        // The root directory: no database.
        return Err(Errno::EISDIR.into());
    }
    Ok(FullPathname {
        path: PathBuf::from(OsString::from_vec(walk.out)),
        had_symlink: walk.symlinks > 0,
    })
}

struct Walk {
    /// Empty for the root, else `/a/b`, free of symbolic links.
    out: Vec<u8>,
    symlinks: u32,
}

impl Walk {
    fn push_all(&mut self, path: &OsStr) -> io::Result<()> {
        for component in path.as_bytes().split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => self.pop(),
                name => self.push(name)?,
            }
        }
        Ok(())
    }

    fn pop(&mut self) {
        let parent_len = self.out.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.out.truncate(parent_len);
    }

    fn push(&mut self, name: &[u8]) -> io::Result<()> {
        let parent_len = self.out.len();
        self.out.push(b'/');
        self.out.extend_from_slice(name);
        if self.out.len() >= MAX_PATH_LEN_BYTES as usize {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let here = Path::new(OsStr::from_bytes(&self.out));
        match fs::symlink_metadata(here) {
            Ok(metadata) if metadata.file_type().is_symlink() => {
                self.symlinks += 1;
                if self.symlinks > MAX_SYMLINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = fs::read_link(here)?;
                self.out
                    .truncate(if target.is_absolute() { 0 } else { parent_len });
                self.push_all(target.as_os_str())
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn resolved(path: &Path) -> (PathBuf, bool) {
        let full = full_pathname(path).unwrap();
        (full.path, full.had_symlink)
    }

    #[test]
    fn dots_and_doubled_slashes_go_away_and_the_end_need_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(
            resolved(&root.join("./a//../b/./c.db")),
            (root.join("b/c.db"), false)
        );
        assert_eq!(
            resolved(Path::new("/../../nowhere.db")),
            (PathBuf::from("/nowhere.db"), false)
        );
    }

    #[test]
    fn a_relative_path_starts_at_the_working_directory() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(resolved(Path::new("some.db")).0, here.join("some.db"));
    }

    #[test]
    fn symbolic_links_are_followed_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("relative")).unwrap();
        symlink(root.join("real"), root.join("absolute")).unwrap();
        symlink("../real/x.db", root.join("real/up.db")).unwrap();
        let expected = (root.join("real/x.db"), true);
        assert_eq!(resolved(&root.join("relative/x.db")), expected);
        assert_eq!(resolved(&root.join("absolute/x.db")), expected);
        assert_eq!(resolved(&root.join("relative/up.db")), expected);
    }

    #[test]
    fn loops_and_paths_that_are_too_long_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(
            full_pathname(&dir.path().join("a"))
                .unwrap_err()
                .raw_os_error(),
            Some(nix::libc::ELOOP)
        );
        let long = "x".repeat(200) + "/" + &"y".repeat(200) + "/" + &"z".repeat(200);
        assert!(full_pathname(&Path::new("/tmp").join(long)).is_err());
        assert!(full_pathname(Path::new("/")).is_err());
    }
}
