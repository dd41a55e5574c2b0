//! The spool holds the application's data: nobody else can read it, whatever the umask and whoever made its root.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use verneuil_integration::process::{self, COMMAND_LIMIT};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::{paths, watchdog};

use crate::support::{tree, under_umask};

const PROGRAM: &str = include_str!("../../programs/private.py");

/// What must have been seen, or the look was at nothing.
const EXPECTED: [&str; 5] = [
    "/control",
    "/log-",
    "/database.json",
    "/copier.lock",
    "/target-",
];

#[test]
fn the_spool_is_private_whatever_the_umask_also_below_a_root_of_mode_0755() -> Result<()> {
    let _limit = watchdog::limit("private", 100);
    for umask in ["000", "077", "0777"] {
        for root_mode in [None, Some(0o755)] {
            if umask == "0777" && !nix::unistd::geteuid().is_root() {
                eprintln!(
                    "umask 0777 is tried by root only: nobody else could enter the folders that the directory store makes"
                );
                continue;
            }
            let setup = Setup::new(Kind::Directory)?;
            // The database itself is not made under that umask.
            rusqlite::Connection::open(setup.database())?
                .execute_batch("CREATE TABLE before(x)")?;
            if let Some(mode) = root_mode {
                fs::create_dir(setup.spool())?;
                fs::set_permissions(setup.spool(), fs::Permissions::from_mode(mode))?;
            }
            let mut command = process::tied(paths::python()?);
            command
                .args(["-c", PROGRAM, &setup.uri(&setup.database())])
                .arg(paths::extension()?)
                .arg(umask)
                .arg(setup.spool())
                .envs(setup.env());
            let told = || format!("umask {umask}, root {root_mode:?}");
            let seen = process::run(&mut command, COMMAND_LIMIT)?
                .ok()
                .with_context(told)?
                .text();
            ensure!(
                seen.lines().any(|line| line == "flush 1"),
                "{}: not replicated: {seen}",
                told()
            );
            for line in seen.lines().filter(|line| !line.starts_with("flush ")) {
                let mode = line.split(' ').nth(1).context("a mode")?;
                let mode = u32::from_str_radix(mode, 8).with_context(|| line.to_owned())?;
                ensure!(mode & 0o077 == 0, "{}: others are let in: {line}", told());
            }
            for name in EXPECTED {
                ensure!(
                    seen.contains(name),
                    "{}: no {name} was seen: {seen}",
                    told()
                );
            }
            // What a flush by another process adds is as private.
            let mut flush = under_umask(umask, &paths::verneuilctl()?);
            flush.arg("flush").arg(setup.spool()).envs(setup.env());
            process::run(&mut flush, COMMAND_LIMIT)?
                .ok()
                .with_context(told)?;
            for (path, mode) in tree(&setup.spool())? {
                // Not less either: who is not root could not use it.
                let expected = if path.is_dir() { 0o700 } else { 0o600 };
                ensure!(
                    mode & 0o777 == expected,
                    "{}: {} has mode {mode:o}",
                    told(),
                    path.display()
                );
            }
            let root = fs::metadata(setup.spool())?.permissions().mode() & 0o777;
            match root_mode {
                Some(mode) => ensure!(root == mode, "the root is its owner's to set"),
                None => ensure!(root == 0o700, "{}: the root has mode {root:o}", told()),
            }
            setup.restored_equals_source().with_context(told)?;
        }
    }
    Ok(())
}
