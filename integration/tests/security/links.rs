//! A symbolic link at any name in the spool is never followed: what it leads to is neither read nor written, the application works on, and
//! either replication goes on without the link, or the status names it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use verneuil_integration::session::Program;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;

use crate::support::{Canary, tree, utf8};

/// A database that has been replicated, and nobody at it.
fn replicated() -> Result<(Setup, Canary)> {
    let setup = Setup::new(Kind::Directory)?;
    let canary = Canary::new(&setup.path(""))?;
    let mut writer = setup.writer(Program::Python)?;
    writer.run(&["CREATE TABLE t(x)", "INSERT INTO t VALUES(1)"])?;
    ensure!(writer.row("PRAGMA verneuil_flush_replication_data")? == "1");
    writer.run(&["INSERT INTO t VALUES(2)"])?;
    writer.kill();
    Ok((setup, canary))
}

/// Where the spool's id is kept meanwhile.
const ASIDE: &str = "aside";

/// What is in the place of the link.
fn remove(entry: &Path) -> Result<()> {
    if fs::symlink_metadata(entry)?.is_dir() {
        fs::remove_dir_all(entry)?;
    } else {
        fs::remove_file(entry)?;
    }
    Ok(())
}

/// The application's and the operator's day with a link in the spool: `entry` leads to `canary`.
fn works_on(setup: &Setup, canary: &Canary, entry: &Path, rows: u32) -> Result<()> {
    let mut writer = setup.writer(Program::Python)?;
    for _ in 0..3 {
        writer.run(&["INSERT INTO t VALUES(3)"])?;
    }
    ensure!(
        writer.row("SELECT count(*) FROM t")? == (rows + 3).to_string(),
        "the application's data"
    );
    let status = writer.row("PRAGMA verneuil_status")?;
    let flushed = writer.row("PRAGMA verneuil_flush_replication_data");
    drop(writer);
    let spool = setup.spool();
    let outside = setup.ctl(&["flush", utf8(&spool)?])?;
    let shown = setup.ctl(&["status", utf8(&spool)?])?;
    canary.is_untouched()?;
    let is_link = fs::symlink_metadata(entry).is_ok_and(|meta| meta.is_symlink());
    if flushed.as_ref().is_ok_and(|done| done == "1") {
        // It was replaced, or was in nobody's way.
        return setup.restored_equals_source();
    }
    ensure!(
        is_link,
        "nothing is in the way any more, and still: {flushed:?}"
    );
    let name = utf8(entry)?;
    let told = format!(
        "{flushed:?} {status} {} {}{}",
        outside.stderr,
        shown.text(),
        shown.stderr
    );
    ensure!(
        status.contains(name) || format!("{flushed:?}").contains(name),
        "the application is not told of {name}: {told}"
    );
    ensure!(told.contains("is a symbolic link"), "{told}");
    if outside.status.success() {
        // It needed no new file where the link is.
        setup
            .restored_equals_source()
            .context("verneuilctl flush claims success")?;
    }
    // The way out that the message shows.
    fs::remove_file(entry)?;
    if setup.path(ASIDE).exists() {
        fs::rename(setup.path(ASIDE), entry)?;
    }
    let mut writer = setup.writer(Program::Python)?;
    writer.run(&["INSERT INTO t VALUES(4)"])?;
    ensure!(writer.row("PRAGMA verneuil_flush_replication_data")? == "1");
    drop(writer);
    setup.restored_equals_source()
}

#[test]
fn no_symbolic_link_in_the_spool_is_followed() -> Result<()> {
    let _limit = watchdog::limit("links", 200);
    let (setup, _) = replicated()?;
    let mut names: BTreeSet<String> = BTreeSet::new();
    for entry in tree(&setup.spool())?.into_keys() {
        // In another setup they go on in another way: a hash, a number.
        let name = entry
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        names.insert(name.chars().take(4).collect());
    }
    ensure!(names.len() >= 8, "there is more in a spool: {names:?}");
    for name in names {
        for is_dangling in [false, true] {
            let (setup, canary) = replicated()?;
            let entry = tree(&setup.spool())?
                .into_keys()
                .find(|path| {
                    path.file_name()
                        .is_some_and(|found| found.to_string_lossy().starts_with(&name))
                })
                .with_context(|| format!("no {name} in the spool"))?;
            let is_folder = entry.is_dir();
            if name == "inst" {
                // The spool's id: without it this host would be another one to the store.
                fs::rename(&entry, setup.path(ASIDE))?;
            } else {
                remove(&entry)?;
            }
            let target = match (is_dangling, is_folder) {
                (true, _) => canary.folder.join("new"),
                (false, true) => canary.folder.clone(),
                (false, false) => canary.file.clone(),
            };
            symlink(&target, &entry)?;
            works_on(&setup, &canary, &entry, 2)
                .with_context(|| format!("{name} -> {}", target.display()))?;
        }
    }
    Ok(())
}

#[test]
fn no_symbolic_link_that_appears_in_use_is_followed() -> Result<()> {
    let _limit = watchdog::limit("links_in_use", 100);
    for what in ["log", "control", "boot"] {
        let (setup, canary) = replicated()?;
        let mut writer = setup.writer(Program::Python)?;
        writer.run(&["INSERT INTO t VALUES(5)"])?;
        ensure!(writer.row("PRAGMA verneuil_flush_replication_data")? == "1");
        let all = tree(&setup.spool())?;
        let control = all
            .keys()
            .find(|path| path.ends_with("control"))
            .context("a control page")?;
        let entry = match what {
            // The log that the next seal will make.
            "log" => {
                let generations = all.keys().filter_map(|path| {
                    let name = path.file_name()?.to_str()?;
                    name.strip_prefix("log-")?.parse::<u32>().ok()
                });
                let next = generations.max().context("a log")? + 1;
                control.with_file_name(format!("log-{next}"))
            }
            "control" => {
                remove(control)?;
                control.clone()
            }
            // State of another boot is removed.
            _ => setup.spool().join(format!("boot-{}", "0".repeat(32))),
        };
        symlink(
            if what == "boot" {
                &canary.folder
            } else {
                &canary.file
            },
            &entry,
        )?;
        for _ in 0..3 {
            writer.run(&["INSERT INTO t VALUES(6)"])?;
        }
        ensure!(
            writer.row("SELECT count(*) FROM t")? == "6",
            "the application's data"
        );
        drop(writer);
        canary.is_untouched()?;
        works_on(&setup, &canary, &entry, 6).with_context(|| what.to_owned())?;
    }
    Ok(())
}
