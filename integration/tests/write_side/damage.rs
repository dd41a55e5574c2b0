//! The spool's files are deleted, cut and filled with noise: the next commit or the next flush repairs that, and no version that
//! is published meanwhile is anything but a committed state.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use verneuil_integration::fault::DirectoryAway;
use verneuil_integration::session::Program;
use verneuil_integration::setup::{Setup, Target};
use verneuil_integration::state::check_state;
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Random, Workload, WorkloadOptions};

use crate::support::{every_version_is_committed, is_equal, watched};

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Deleted,
    /// Cut to nothing. Only while nobody has it mapped: that is a SIGBUS, as docs/RELIABILITY.md says.
    Emptied,
    /// Cut to its half, likewise.
    Halved,
    /// Overwritten from its first to its last byte.
    Noise,
    /// Some bytes in its middle are others.
    Spoiled,
}

fn noise(len: usize, random: &mut Random) -> Vec<u8> {
    (0..len).map(|_| random.below(256) as u8).collect()
}

impl Damage {
    fn inflict(self, file: &Path, random: &mut Random) -> Result<()> {
        let len = fs::metadata(file)
            .with_context(|| format!("{}", file.display()))?
            .len();
        // In place: whoever has the file open or mapped goes on with it.
        let open = || File::options().write(true).open(file);
        match self {
            Self::Deleted => fs::remove_file(file)?,
            Self::Emptied => open()?.set_len(0)?,
            Self::Halved => open()?.set_len(len / 2)?,
            Self::Noise => open()?.write_all_at(&noise(usize::try_from(len)?, random), 0)?,
            Self::Spoiled => open()?.write_all_at(&noise(64, random), len / 2)?,
        }
        Ok(())
    }
}

/// The folder of the setup's only database in the spool.
fn folder(setup: &Setup) -> Result<PathBuf> {
    let one = |folder: &Path, prefix: &str| -> Result<PathBuf> {
        let mut found = fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            });
        let path = found.next().context("nothing in the spool")?;
        ensure!(found.next().is_none(), "more than one {prefix}");
        Ok(path)
    };
    one(&one(&setup.spool(), "boot-")?, "main.db-")
}

/// The files of the database's folder that a name begins with.
fn files(setup: &Setup, prefix: &str) -> Result<Vec<PathBuf>> {
    let folder = folder(setup)?;
    let mut found: Vec<PathBuf> = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix)
        })
        .collect();
    found.sort();
    Ok(found)
}

/// The records that the copier keeps for each target: whatever is in the folder and is none of the files with names of their own.
fn records(setup: &Setup) -> Result<Vec<PathBuf>> {
    let mut found = files(setup, "")?;
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file()
            && !name.starts_with("log-")
            && !["control", "database.json", "copier.lock", "last-error"].contains(&&*name)
    });
    Ok(found)
}

fn store_root(setup: &Setup) -> Result<PathBuf> {
    match setup.target() {
        Target::Directory(root) => Ok(root.clone()),
        Target::S3 { .. } | Target::Given { .. } => {
            anyhow::bail!("a directory store was asked for")
        }
    }
}

/// A writer commits, half of it to the store, half of it while the store is away, and is killed: nobody has anything mapped
/// then, and there is something to lose.
fn leave_something_behind(setup: &Setup, workload: &mut Workload) -> Result<()> {
    let mut source = setup.writer(Program::Rusqlite)?;
    for _ in 0..5 {
        source.run(&workload.step())?;
    }
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    let away = DirectoryAway::take(&store_root(setup)?)?;
    for _ in 0..15 {
        source.run(&workload.step())?;
    }
    source.kill();
    drop(away);
    Ok(())
}

/// Who repairs.
#[derive(Clone, Copy, Debug)]
enum Repair {
    /// A new connection commits, and then a flush.
    Commit,
    /// `verneuilctl flush` alone.
    Flush,
}

fn damaged_while_unused(
    what: &str,
    find: impl Fn(&Setup) -> Result<Vec<PathBuf>>,
    damages: &[Damage],
    repairs: &[Repair],
) -> Result<()> {
    let _limit = watchdog::limit("damaged_while_unused", 300);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(41, WorkloadOptions::default());
    let mut random = Random::new(41);
    let mut failures = Vec::new();
    for damage in damages {
        for repair in repairs {
            leave_something_behind(&setup, &mut workload)?;
            let files = find(&setup)?;
            ensure!(!files.is_empty(), "there is no {what} to damage");
            for file in &files {
                damage.inflict(file, &mut random)?;
            }
            let repaired = (|| {
                if let Repair::Commit = repair {
                    let mut source = setup.writer(Program::Python)?;
                    source.run(&workload.step())?;
                    source.close()?;
                }
                setup.flush()?;
                is_equal(&setup, &setup.database())
            })();
            // One that fails must not hide the others.
            if let Err(error) = repaired {
                failures.push(format!(
                    "{what} {damage:?}, repair by {repair:?}: {error:#}"
                ));
            }
        }
    }
    // Whatever happened: the next opener and its commit find everything.
    let mut source = setup.writer(Program::Shell)?;
    source.run(&workload.step())?;
    source.close()?;
    setup.flush()?;
    setup.restored_equals_source()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn a_control_page_that_is_damaged_while_unused_is_repaired_by_the_next_commit_or_flush()
-> Result<()> {
    damaged_while_unused(
        "control page",
        |setup| files(setup, "control"),
        &[
            Damage::Deleted,
            Damage::Emptied,
            Damage::Halved,
            Damage::Noise,
        ],
        &[Repair::Commit, Repair::Flush],
    )
}

#[test]
fn a_log_that_is_damaged_while_unused_is_repaired_by_the_next_commit_or_flush() -> Result<()> {
    damaged_while_unused(
        "log",
        |setup| files(setup, "log-"),
        &[
            Damage::Deleted,
            Damage::Emptied,
            Damage::Halved,
            Damage::Noise,
            Damage::Spoiled,
        ],
        &[Repair::Commit, Repair::Flush],
    )
}

#[test]
fn a_target_record_that_is_damaged_while_unused_is_repaired_by_the_next_commit_or_flush()
-> Result<()> {
    damaged_while_unused(
        "record of a target",
        records,
        &[
            Damage::Deleted,
            Damage::Emptied,
            Damage::Halved,
            Damage::Noise,
            Damage::Spoiled,
        ],
        &[Repair::Commit, Repair::Flush],
    )
}

#[test]
fn a_damaged_record_of_the_database_is_repaired_by_the_next_commit() -> Result<()> {
    // It is what a flush from elsewhere knows the database by: only an opener can write it again.
    damaged_while_unused(
        "database.json",
        |setup| files(setup, "database.json"),
        &[
            Damage::Deleted,
            Damage::Emptied,
            Damage::Halved,
            Damage::Noise,
            Damage::Spoiled,
        ],
        &[Repair::Commit],
    )
}

#[test]
fn a_spool_that_lost_everything_but_its_instance_is_repaired_by_the_next_opener() -> Result<()> {
    let _limit = watchdog::limit("lost_spool", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(42, WorkloadOptions::default());
    for _ in 0..3 {
        leave_something_behind(&setup, &mut workload)?;
        fs::remove_dir_all(folder(&setup)?)?;
        let mut source = setup.writer(Program::Python)?;
        // A read is enough.
        source.row("SELECT tx FROM head")?;
        ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
        is_equal(&setup, &setup.database())?;
        source.close()?;
    }
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}

/// The same in the hands of a living process, in every order.
fn damaged_in_use(what: &str, prefix: &str, damages: &[Damage]) -> Result<()> {
    let _limit = watchdog::limit("damaged_in_use", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(43, WorkloadOptions::default());
    let mut random = Random::new(43);
    let mut source = setup.writer(Program::Rusqlite)?;
    for _ in 0..5 {
        source.run(&workload.step())?;
    }
    for round in 0..4 {
        for damage in damages {
            // Commits wait in the spool, or are on their way, when it happens.
            for _ in 0..3 {
                source.run(&workload.step())?;
            }
            for file in files(&setup, prefix)? {
                // A log may have been shipped and removed by now.
                if file.exists() {
                    drop(damage.inflict(&file, &mut random));
                }
            }
            if round % 2 == 0 {
                source.run(&workload.step())?;
            }
            let told = || format!("{what} {damage:?} in use, round {round}");
            let flushed = source
                .row("PRAGMA verneuil_flush_replication_data")
                .with_context(told)?;
            ensure!(flushed == "1", "{}: {flushed}", told());
            is_equal(&setup, &setup.database()).with_context(told)?;
            source.run(&workload.step())?;
        }
    }
    source.close()?;
    setup.flush()?;
    setup.restored_equals_source()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}

#[test]
fn a_control_page_that_is_deleted_in_use_is_repaired() -> Result<()> {
    damaged_in_use("control page", "control", &[Damage::Deleted])
}

#[test]
fn a_control_page_that_is_overwritten_with_noise_in_use_is_repaired() -> Result<()> {
    damaged_in_use("control page", "control", &[Damage::Noise])
}

#[test]
fn a_log_that_is_damaged_in_use_is_repaired() -> Result<()> {
    damaged_in_use(
        "log",
        "log-",
        &[
            Damage::Deleted,
            Damage::Emptied,
            Damage::Halved,
            Damage::Noise,
            Damage::Spoiled,
        ],
    )
}
