//! The files that SQLite puts beside a database hold its pages: they take its mode, and its owner where the process may give files away.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;

/// Nobody's, on any machine.
const OWNER: (u32, u32) = (12_345, 12_346);

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn takes_after(database: &Path, suffix: &str) -> Result<()> {
    let file = beside(database, suffix);
    let (like, meta) = (
        fs::metadata(database)?,
        fs::metadata(&file).with_context(|| format!("{}", file.display()))?,
    );
    ensure!(
        like.mode() == meta.mode(),
        "{suffix} has mode {:o}, the database {:o}",
        meta.mode(),
        like.mode()
    );
    if nix::unistd::geteuid().is_root() {
        ensure!(
            (meta.uid(), meta.gid()) == OWNER,
            "{suffix} belongs to {}:{}",
            meta.uid(),
            meta.gid()
        );
    } else {
        eprintln!("the owner of {suffix} is not looked at: only root can give a database away");
    }
    Ok(())
}

#[test]
fn journals_take_mode_and_owner_of_the_database() -> Result<()> {
    let _limit = watchdog::limit("journals", 60);
    for mode in [0o600, 0o640, 0o666] {
        let setup = Setup::new(Kind::Directory)?;
        for (vfs, journal, suffixes) in [
            ("verneuil", "DELETE", &["-journal"][..]),
            ("verneuil", "PERSIST", &["-journal"][..]),
            ("linux", "WAL", &["-wal", "-shm"][..]),
        ] {
            let database = setup.path(&format!("source/{vfs}-{journal}.db"));
            let stock = rusqlite::Connection::open(&database)?;
            stock.pragma_update(
                None,
                "journal_mode",
                if journal == "WAL" { "WAL" } else { "DELETE" },
            )?;
            stock.execute_batch("CREATE TABLE t(x)")?;
            drop(stock);
            fs::set_permissions(&database, Permissions::from_mode(mode))?;
            if nix::unistd::geteuid().is_root() {
                chown(&database, Some(OWNER.0), Some(OWNER.1))?;
            }
            let uri = format!("file:{}?vfs={vfs}", database.display());
            let opening = Opening {
                uri: &uri,
                load: true,
                env: &setup.env(),
            };
            let mut session = Session::open(Program::Shell, &opening)?;
            session.run(&[&format!("PRAGMA journal_mode={journal}")])?;
            session.run(&["BEGIN IMMEDIATE", "INSERT INTO t VALUES(1)"])?;
            for suffix in suffixes {
                takes_after(&database, suffix)
                    .with_context(|| format!("{vfs}, {journal}, {mode:o}"))?;
            }
            session.run(&["COMMIT"])?;
            session.close()?;
        }
    }
    Ok(())
}
