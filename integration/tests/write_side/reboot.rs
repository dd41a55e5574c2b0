//! Another boot id: what an earlier boot left in the spool is never read again, and all that was committed arrives all the same.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use verneuil_integration::boot::Boot;
use verneuil_integration::fault::DirectoryAway;
use verneuil_integration::process::{self, COMMAND_LIMIT, Finished, until};
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Setup, Target};
use verneuil_integration::state::check_state;
use verneuil_integration::workload::{Random, Workload, WorkloadOptions};
use verneuil_integration::{paths, watchdog};

use crate::kills::{Writer, nothing_was_lost};
use crate::support::{every_version_is_committed, is_equal, stock, utf8, watched};

/// How many reboots at random moments.
const REBOOTS: u32 = 40;

fn session_after(setup: &Setup, boot: &Boot, program: Program) -> Result<Session> {
    Session::open_after_reboot(
        program,
        &Opening {
            uri: &setup.uri(&setup.database()),
            load: true,
            env: &setup.env(),
        },
        boot,
    )
}

fn flush_after(setup: &Setup, boot: &Boot) -> Result<Finished> {
    let mut command = process::tied(paths::verneuilctl()?);
    command
        .args(["flush", utf8(&setup.spool())?])
        .envs(setup.env());
    process::run(&mut boot.wrap(&command), COMMAND_LIMIT)
}

fn boot_folders(setup: &Setup) -> Result<Vec<PathBuf>> {
    Ok(std::fs::read_dir(setup.spool())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("boot-"))
        })
        .collect())
}

/// Commits that were not uploaded when the power went.
fn power_loss(setup: &Setup, boot: &Boot, workload: &mut Workload) -> Result<()> {
    let Target::Directory(root) = setup.target() else {
        anyhow::bail!("a directory store was asked for")
    };
    let mut source = session_after(setup, boot, Program::Rusqlite)?;
    for _ in 0..10 {
        source.run(&workload.step())?;
    }
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    let away = DirectoryAway::take(root)?;
    for _ in 0..20 {
        source.run(&workload.step())?;
    }
    source.kill();
    drop(away);
    Ok(())
}

#[test]
fn after_a_reboot_the_next_opener_uploads_what_was_pending_and_removes_the_old_state() -> Result<()>
{
    let _limit = watchdog::limit("reboot", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(51, WorkloadOptions::default());
    for number in 0..4 {
        power_loss(&setup, &Boot::new(&setup.path(""), number)?, &mut workload)?;
        let boot = Boot::new(&setup.path(""), number + 1)?;
        let mut source = session_after(&setup, &boot, Program::Python)?;
        // Nobody flushes: opening and reading is enough.
        source.row("SELECT tx FROM head")?;
        until("what was pending arrives", Duration::from_secs(20), || {
            is_equal(&setup, &setup.database())
        })
        .with_context(|| format!("reboot {number}"))?;
        until("the old state is gone", Duration::from_secs(20), || {
            let folders = boot_folders(&setup)?;
            ensure!(folders.len() == 1, "{folders:?}");
            Ok(())
        })?;
        source.close()?;
    }
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}

#[test]
fn what_another_boot_left_is_never_laid_over_a_database_that_has_changed_since() -> Result<()> {
    let _limit = watchdog::limit("reboot_changed", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(52, WorkloadOptions::default());
    let (before, after) = (
        Boot::new(&setup.path(""), 1)?,
        Boot::new(&setup.path(""), 2)?,
    );
    power_loss(&setup, &before, &mut workload)?;
    let mut foreigner = stock(Program::Python, &setup.database())?;
    foreigner.run(&["DELETE FROM noise", "VACUUM"])?;
    for _ in 0..3 {
        foreigner.run(&workload.step())?;
    }
    foreigner.close()?;
    let mut source = session_after(&setup, &after, Program::Shell)?;
    source.run(&workload.step())?;
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    is_equal(&setup, &setup.database())?;
    source.close()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}

#[test]
fn a_flush_after_a_reboot_that_nobody_has_opened_anything_since_does_not_lie() -> Result<()> {
    let _limit = watchdog::limit("reboot_flush", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(53, WorkloadOptions::default());
    let (before, after) = (
        Boot::new(&setup.path(""), 1)?,
        Boot::new(&setup.path(""), 2)?,
    );
    power_loss(&setup, &before, &mut workload)?;
    // The writer may have been killed within nothing, so that there is no hot journal: it had answered.
    let done = flush_after(&setup, &after)?;
    if done.status.success() {
        is_equal(&setup, &setup.database()).context(
            "flush said success, but the store lacks what was committed before the reboot",
        )?;
    } else {
        ensure!(
            !done.stderr.trim().is_empty(),
            "flush failed without a reason"
        );
        eprintln!("flush after a reboot: {}", done.stderr.trim());
    }
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last > 0);
    Ok(())
}

#[test]
fn forty_reboots_at_random_moments_lose_nothing() -> Result<()> {
    let _limit = watchdog::limit("reboots", 200);
    let (setup, watch) = watched()?;
    let mut random = Random::new(54);
    let start = |number: u32| {
        let mut command = process::tied(paths::bundled_sqlite()?);
        command.args(["write-until-killed", &setup.uri(&setup.database())]);
        command.arg(paths::extension()?).arg(number.to_string());
        command.envs(setup.env());
        Writer::start(Boot::new(&setup.path(""), number)?.wrap(&command))
    };
    let mut committed = 0;
    let (life, life_max_us) = start(0)?.first()?;
    nothing_was_lost(0, &mut committed, &life)?;
    for number in 1..REBOOTS {
        let writer = start(number)?;
        std::thread::sleep(Duration::from_micros(random.below(life_max_us)));
        nothing_was_lost(number.into(), &mut committed, &writer.kill()?)?;
    }
    let boot = Boot::new(&setup.path(""), REBOOTS)?;
    let mut source = session_after(&setup, &boot, Program::Shell)?;
    let state: u64 = source.row("SELECT tx FROM head")?.parse()?;
    ensure!(state >= committed && committed > u64::from(REBOOTS));
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    setup.restored_equals_source()?;
    source.close()?;
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == state);
    Ok(())
}

/// A spool in memory, as each reboot leaves it.
#[test]
fn a_spool_that_every_reboot_wipes_goes_on_under_its_name_even_if_nothing_was_committed()
-> Result<()> {
    let _limit = watchdog::limit("reboot_wiped", 200);
    let (setup, watch) = watched()?;
    let mut workload = Workload::new(54, WorkloadOptions::default());
    for number in 0..3 {
        let boot = Boot::new(&setup.path(""), number)?;
        // The first process of a boot only reads, each next one commits.
        for commits in 0..3 {
            let mut source = session_after(&setup, &boot, Program::Rusqlite)?;
            source.row("SELECT count(*) FROM sqlite_schema")?;
            for _ in 0..commits {
                source.run(&workload.step())?;
            }
            let flushed = source.row("PRAGMA verneuil_flush_replication_data")?;
            ensure!(
                flushed == "1",
                "boot {number}, {commits} commits: {flushed}"
            );
            source.close()?;
            if workload.committed() > 0 {
                is_equal(&setup, &setup.database())?;
            }
        }
        std::fs::remove_dir_all(setup.spool())?;
    }
    let shown = every_version_is_committed(&setup, watch, check_state)?;
    ensure!(shown.last == workload.committed());
    Ok(())
}
