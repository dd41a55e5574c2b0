//! The mount as the system sees it: it comes, shows what the store has, can't be written, and goes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use verneuil_integration::mount::{self, Mount, MountPoint};
use verneuil_integration::process::{self, COMMAND_LIMIT, until};
use verneuil_integration::session::Program;
use verneuil_integration::setup::{HOST, Kind, Setup};
use verneuil_integration::workload::{Workload, WorkloadOptions};
use verneuil_integration::{paths, watchdog};

const REFRESH: Duration = Duration::from_millis(100);

fn replicated(kind: Kind) -> Result<Setup> {
    let setup = Setup::new(kind)?;
    let mut source = setup.writer(Program::Python)?;
    let mut workload = Workload::new(1, WorkloadOptions::default());
    for _ in 0..10 {
        source.run(&workload.step())?;
    }
    source.close()?;
    setup.flush()?;
    Ok(setup)
}

fn reads(setup: &Setup, mount: &Mount) -> Result<()> {
    let mut reader = setup.reader(Program::Shell, mount)?;
    ensure!(reader.row("SELECT tx FROM tail")? == "10");
    reader.close().map(drop)
}

#[test]
fn on_a_directory_store_it_shows_hosts_folders_and_read_only_databases() -> Result<()> {
    shows(Kind::Directory)
}

#[test]
fn on_s3_it_shows_hosts_folders_and_read_only_databases() -> Result<()> {
    shows(Kind::S3)
}

fn shows(kind: Kind) -> Result<()> {
    let _limit = watchdog::limit("shows", 120);
    let setup = replicated(kind)?;
    let mount = setup.mount(REFRESH)?;
    let names = |folder: &std::path::Path| -> Result<Vec<String>> {
        Ok(mount::list(folder)?
            .ok()?
            .text()
            .lines()
            .map(str::to_owned)
            .collect())
    };
    ensure!(
        names(mount.point())?.contains(&HOST.to_owned()),
        "no host in {:?}",
        names(mount.point())?
    );
    let replica = mount.replica(&setup.database());
    ensure!(names(replica.parent().context("a folder")?)? == ["main.db"]);

    let stat = |format: &str, file: &std::path::Path| -> Result<String> {
        let text = process::run(
            process::tied("stat").args(["-c", format]).arg(file),
            COMMAND_LIMIT,
        )?
        .ok()?
        .text();
        Ok(text.trim().to_owned())
    };
    ensure!(
        stat("%a %F", &replica)? == "440 regular file",
        "{}",
        stat("%a %F", &replica)?
    );
    ensure!(
        stat("%a %F", mount.point())? == "550 directory",
        "{}",
        stat("%a %F", mount.point())?
    );
    let source_len = std::fs::metadata(setup.database())?.len();
    ensure!(stat("%s", &replica)? == source_len.to_string());

    let copy = setup.path("copy.db");
    process::run(
        process::tied("cp")
            .arg("--no-preserve=mode")
            .arg(&replica)
            .arg(&copy),
        COMMAND_LIMIT,
    )?
    .ok()?;
    verneuil_integration::state::same_bytes(&setup.database(), &copy)?;

    let refuse = |program: &str, arguments: &[&str]| -> Result<String> {
        process::run(
            process::tied(program).args(arguments).arg(&replica),
            COMMAND_LIMIT,
        )?
        .expect_failure()
    };
    for (program, arguments) in [
        ("rm", &["-f"][..]),
        ("truncate", &["-s", "0"]),
        ("chmod", &["777"]),
        ("touch", &[]),
    ] {
        refuse(program, arguments).with_context(|| format!("{program} on the mount"))?;
    }
    let beside = replica.with_extension("new");
    process::run(process::tied("touch").arg(&beside), COMMAND_LIMIT)?
        .expect_failure()
        .context("a new file")?;
    let missing = mount.point().join("no-such-host/x.db");
    mount::list(&missing)?
        .expect_failure()
        .context("a name that does not exist")?;
    reads(&setup, &mount)?;
    mount.terminate()
}

#[test]
fn sigterm_unmounts_and_a_reader_that_is_inside_does_not_prevent_it() -> Result<()> {
    let _limit = watchdog::limit("sigterm", 120);
    let setup = replicated(Kind::Directory)?;
    let mount = setup.mount(REFRESH)?;
    let mut reader = setup.reader(Program::Python, &mount)?;
    reader.run(&["BEGIN", "SELECT tx FROM head"])?;
    mount.terminate()?;
    reader.kill();
    Ok(())
}

#[test]
fn a_mount_left_dead_by_a_killed_daemon_is_replaced() -> Result<()> {
    let _limit = watchdog::limit("dead_mount", 120);
    let setup = replicated(Kind::Directory)?;
    let mut killed = setup.mount(REFRESH)?;
    reads(&setup, &killed)?;
    killed.kill()?;
    ensure!(
        mount::is_mounted(killed.point()),
        "the dead mount is not there: nothing to replace"
    );
    let mount = setup.mount(REFRESH)?;
    reads(&setup, &mount)?;
    mount.terminate()
}

#[test]
fn in_the_background_the_command_returns_once_the_mount_is_usable() -> Result<()> {
    let _limit = watchdog::limit("background", 120);
    paths::require_fuse()?;
    let setup = replicated(Kind::Directory)?;
    let point = MountPoint::create(&setup.path("mnt"))?;
    let mut command = process::tied(paths::mount_daemon()?);
    command.arg(point.path()).envs(setup.env());
    process::run(&mut command, COMMAND_LIMIT)?
        .ok()
        .context("verneuil-fs")?;
    ensure!(
        mount::is_mounted(point.path()),
        "it returned before the mount was there"
    );
    let listed = mount::list(point.path())?.ok()?.text();
    ensure!(
        listed.contains(HOST),
        "it returned before the mount was usable: {listed:?}"
    );
    process::run(process::tied("umount").arg(point.path()), COMMAND_LIMIT)?.ok()?;
    until(
        "the daemon ends after umount",
        Duration::from_secs(10),
        || {
            ensure!(
                !process::is_running_with(point.path())?,
                "it is still there"
            );
            Ok(())
        },
    )
}

#[test]
fn a_mount_point_that_does_not_exist_is_an_error_in_plain_words() -> Result<()> {
    let setup = Setup::new(Kind::Directory)?;
    let missing = setup.path("nowhere/mnt");
    let mut command = process::tied(paths::mount_daemon()?);
    command.arg("-f").arg(&missing).envs(setup.env());
    let done = process::run(&mut command, COMMAND_LIMIT)?;
    ensure!(done.status.code() == Some(1), "{}", done.status);
    ensure!(
        done.stderr.contains(&*missing.to_string_lossy()),
        "{:?}",
        done.stderr
    );
    Ok(())
}
