//! Paths as the VFS makes them before it names a database by them: absolute, with symbolic links resolved as far as
//! they exist. `session` calls this.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The path of a database of this host. A file that is gone is named by its directory; a directory that is gone, by
/// the text of the path alone.
pub fn canonical(path: &Path) -> io::Result<Vec<u8>> {
    if let Ok(canonical) = std::fs::canonicalize(path) {
        return Ok(bytes(canonical));
    }
    let absolute = PathBuf::from(OsStr::from_bytes(&absolute(path)?));
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name())
        && let Ok(parent) = std::fs::canonicalize(parent)
    {
        return Ok(bytes(parent.join(name)));
    }
    Ok(bytes(absolute))
}

/// The path made absolute by its text alone: without `.`, `..` and repeated slashes.
pub fn absolute(path: &Path) -> io::Result<Vec<u8>> {
    let mut out = PathBuf::from("/");
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(bytes(out))
}

fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_as_far_as_they_exist() {
        let dir = tempfile::tempdir().expect("tempdir");
        let real = std::fs::canonicalize(dir.path())
            .expect("canonical")
            .join("real");
        std::fs::create_dir(&real).expect("mkdir");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).expect("symlink");
        std::fs::write(real.join("a.db"), b"").expect("write");
        std::os::unix::fs::symlink(real.join("a.db"), link.join("b.db")).expect("symlink");
        let canonical = |path: &Path| canonical(path).expect("absolute");
        let expect = |name: &str| bytes(real.join(name));
        assert_eq!(canonical(&link.join("a.db")), expect("a.db"));
        assert_eq!(
            canonical(&link.join("b.db")),
            expect("a.db"),
            "the file's own link too"
        );
        assert_eq!(canonical(&link.join("gone.db")), expect("gone.db"));
        assert_eq!(
            canonical(Path::new("/no/such/../dir/./x.db")),
            b"/no/dir/x.db"
        );
    }

    #[test]
    fn text_alone_gives_an_absolute_path() {
        let absolute = |path: &str| absolute(Path::new(path)).expect("absolute");
        assert_eq!(absolute("/a//b/./c/../d.db"), b"/a/b/d.db");
        assert_eq!(absolute("/../../x"), b"/x");
        let here = bytes(std::env::current_dir().expect("cwd").join("x.db"));
        assert_eq!(absolute("x.db"), here);
    }
}
