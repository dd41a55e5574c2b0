//! `verneuilctl restore` is killed before each of its calls on the folder of its output: the output is what it was, or the whole database; a
//! second restore works, and cleans up behind the first.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use verneuil_integration::process::{self, COMMAND_LIMIT};
use verneuil_integration::session::Program;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::state::same_bytes;
use verneuil_integration::{paths, watchdog};

use crate::interposer::{Action, CTL, Fault};
use crate::scene::restore_arguments;

const FILL: &str = "CREATE TABLE t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<99) SELECT i, hex(randomblob(900)) x FROM n";
/// A temporary file that nobody has touched for so long is a dead restore's.
const LONG_AGO: Duration = Duration::from_secs(3_600);

fn restore(setup: &Setup, at: usize, action: Action) -> Result<(process::Finished, Fault)> {
    let out = setup.path("out/restored.db");
    let fault = Fault {
        program: CTL,
        files: vec![setup.path("out")],
        is_marked: false,
        at,
        action,
        log: setup.path("calls"),
    };
    drop(fs::remove_file(&fault.log));
    let mut command = process::tied(paths::verneuilctl()?);
    command
        .args(restore_arguments(setup, &out))
        .envs(setup.env())
        .envs(fault.env()?);
    Ok((process::run(&mut command, COMMAND_LIMIT)?, fault))
}

fn names(setup: &Setup) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(setup.path("out"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[test]
fn a_restore_killed_at_any_call_leaves_the_output_as_it_was_or_whole() -> Result<()> {
    let _limit = watchdog::limit("restore_points", 200);
    let setup = Setup::new(Kind::Directory)?;
    let mut source = setup.writer(Program::Rusqlite)?;
    source.run(&[FILL])?;
    source.close()?;
    setup.flush()?;
    let (folder, out) = (setup.path("out"), setup.path("out/restored.db"));
    fs::create_dir(&folder)?;
    for before in [None, Some("what was there before")] {
        let reset = || -> Result<()> {
            fs::remove_dir_all(&folder)?;
            fs::create_dir(&folder)?;
            if let Some(before) = before {
                fs::write(&out, before)?;
            }
            Ok(())
        };
        reset()?;
        let (done, whole) = restore(&setup, 0, Action::Count)?;
        done.ok()?;
        let calls = whole.calls()?.len();
        let mut replaced = 0;
        for at in 1..=calls {
            reset()?;
            let (done, _) = restore(&setup, at, Action::Kill)?;
            ensure!(
                done.status.signal() == Some(9),
                "{}: {}",
                done.status,
                done.stderr
            );
            let is_old = fs::read(&out).ok().as_deref() == before.map(str::as_bytes);
            if !is_old {
                same_bytes(&setup.database(), &out).context("neither as it was nor whole")?;
                replaced += 1;
            }
            // The dead one's file is found by the next, once nobody can be at it any more.
            for name in names(&setup)?.iter().filter(|name| name.starts_with('.')) {
                fs::File::options()
                    .write(true)
                    .open(folder.join(name))?
                    .set_modified(SystemTime::now() - LONG_AGO)?;
            }
            setup.restore(&setup.database(), &out)?;
            same_bytes(&setup.database(), &out)?;
            ensure!(
                names(&setup)? == ["restored.db"],
                "left behind: {:?}",
                names(&setup)?
            );
        }
        ensure!(
            replaced > 0 && replaced < calls,
            "{replaced} of {calls} deaths came after the rename"
        );
    }
    Ok(())
}
