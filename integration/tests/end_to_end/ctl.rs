//! `verneuilctl` as a user meets it: what is replicated, where, restored how; and failures that say so.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use verneuil_integration::session::Program;
use verneuil_integration::setup::{HOST, Kind, Setup, Target};
use verneuil_integration::state::{check_state, same_bytes};
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

fn replicated(kind: Kind) -> Result<Setup> {
    let setup = Setup::new(kind)?;
    let mut source = setup.writer(Program::Shell)?;
    let mut workload = Workload::new(1, WorkloadOptions::default());
    for _ in 0..30 {
        source.run(&workload.step())?;
    }
    source.close()?;
    setup.flush()?;
    Ok(setup)
}

#[test]
fn on_a_directory_store_ls_manifest_and_restore_tell_the_same_story() -> Result<()> {
    tell(Kind::Directory)
}

#[test]
fn on_s3_ls_manifest_and_restore_tell_the_same_story() -> Result<()> {
    tell(Kind::S3)
}

fn tell(kind: Kind) -> Result<()> {
    let _limit = watchdog::limit("tell", 120);
    let setup = replicated(kind)?;
    let database = setup.database();
    let path = database.to_str().context("UTF-8")?;

    let listed = setup.ctl(&["ls"])?.ok()?.text();
    ensure!(
        listed.contains(HOST),
        "ls does not show the host: {listed:?}"
    );
    let listed = setup.ctl(&["ls", HOST])?.ok()?.text();
    ensure!(!listed.trim().is_empty(), "ls HOST is empty");
    let folder = format!("{HOST}{}", database.parent().context("a folder")?.display());
    let listed = setup.ctl(&["ls", &folder])?.ok()?.text();
    ensure!(
        listed.contains("main.db"),
        "ls of the folder does not show the database: {listed:?}"
    );

    let name = setup
        .ctl(&["manifest-name", path, "--hostname", HOST])?
        .ok()?
        .text();
    ensure!(
        name.trim() == setup.manifest_key(&database),
        "manifest-name gave {name:?}"
    );

    let raw = setup.path("raw.manifest");
    let raw_name = raw.to_str().context("UTF-8")?;
    setup
        .ctl(&["manifest", path, "--hostname", HOST, "-o", raw_name])?
        .ok()?;
    let printed = setup
        .ctl(&["manifest", path, "--hostname", HOST])?
        .ok()?
        .stdout;
    ensure!(
        std::fs::read(&raw)? == printed,
        "manifest -o and stdout differ"
    );
    let decoded = setup
        .ctl(&["manifest", path, "--hostname", HOST, "--decode"])?
        .ok()?
        .text();
    ensure!(
        decoded.contains(HOST) && decoded.contains(path),
        "--decode shows neither host nor path: {decoded}"
    );

    let out = setup.path("out.db");
    setup.restore_manifest(&raw, &out)?;
    same_bytes(&database, &out)?;
    setup.restored_equals_source()?;
    let streamed = setup
        .ctl(&["restore", "-s", path, "--hostname", HOST])?
        .ok()?
        .stdout;
    ensure!(
        streamed == std::fs::read(&database)?,
        "restore to standard output differs"
    );
    ensure!(check_state(&out)? == 30);
    Ok(())
}

#[test]
fn json_output_is_json() -> Result<()> {
    let setup = replicated(Kind::Directory)?;
    let path = setup.database();
    let path = path.to_str().context("UTF-8")?;
    for arguments in [
        &["ls", HOST, "--json"][..],
        &["manifest", path, "--hostname", HOST, "--decode", "--json"],
    ] {
        let text = setup.ctl(arguments)?.ok()?.text();
        for document in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            document.with_context(|| format!("{arguments:?} printed {text:?}"))?;
        }
        ensure!(!text.trim().is_empty(), "{arguments:?} printed nothing");
    }
    Ok(())
}

#[test]
fn a_damaged_store_fails_the_restore_and_leaves_no_partial_file() -> Result<()> {
    let _limit = watchdog::limit("damaged", 120);
    let setup = replicated(Kind::Directory)?;
    let Target::Directory(root) = setup.target() else {
        anyhow::bail!("a directory store was asked for")
    };
    let mut packs = Vec::new();
    files_below(&root.join("packs"), &mut packs)?;
    ensure!(!packs.is_empty(), "no packs in the store");
    for pack in &packs {
        let mut bytes = std::fs::read(pack)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        std::fs::write(pack, bytes)?;
    }
    let out = setup.path("out.db");
    let database = setup.database();
    let (path, out_name) = (
        database.to_str().context("UTF-8")?,
        out.to_str().context("UTF-8")?,
    );
    let said = setup
        .ctl(&["restore", "-s", path, "--hostname", HOST, "-o", out_name])?
        .expect_failure()?;
    ensure!(
        said.contains("packs/"),
        "the error does not name the object: {said:?}"
    );
    ensure!(!out.exists(), "a partial file was left");
    let beside: Vec<_> = std::fs::read_dir(setup.path(""))?
        .map_while(Result::ok)
        .map(|entry| entry.file_name())
        .collect();
    ensure!(
        !beside
            .iter()
            .any(|name| name.to_string_lossy().contains("out.db")),
        "left behind: {beside:?}"
    );

    for pack in &packs {
        std::fs::remove_file(pack)?;
    }
    let said = setup
        .ctl(&["restore", "-s", path, "--hostname", HOST, "-o", out_name])?
        .expect_failure()?;
    ensure!(
        said.contains("packs/") && !out.exists(),
        "a missing pack: {said:?}"
    );
    Ok(())
}

fn files_below(folder: &std::path::Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[test]
fn exit_status_is_two_for_bad_usage_and_one_for_failure() -> Result<()> {
    let setup = Setup::new(Kind::Directory)?;
    for arguments in [
        &["no-such-command"][..],
        &["restore", "--no-such-option"],
        &["flush"],
    ] {
        let done = setup.ctl(arguments)?;
        ensure!(
            done.status.code() == Some(2),
            "{arguments:?}: {}",
            done.status
        );
    }
    for arguments in [
        &["restore", "-s", "/never/written.db", "--hostname", HOST][..],
        &["restore", "-m", "/none"],
        &["flush", "/none"],
    ] {
        let done = setup.ctl(arguments)?;
        ensure!(
            done.status.code() == Some(1),
            "{arguments:?}: {} {}",
            done.status,
            done.stderr
        );
        let lines = done.stderr.trim().lines().count();
        ensure!(
            (1..=3).contains(&lines),
            "{arguments:?} gave {lines} lines: {}",
            done.stderr
        );
        ensure!(
            !done.stderr.contains('\u{1b}'),
            "colour without a terminal: {:?}",
            done.stderr
        );
    }
    Ok(())
}
