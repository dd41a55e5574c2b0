//! The power goes at a system call: the boot id changes, and the spool, which nobody ever syncs, is as it was, gone, cut at random lengths,
//! emptied or zeroed. The next opener publishes the database as it is, and nothing wrong is published before.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use verneuil_integration::boot::Boot;
use verneuil_integration::process::{self, COMMAND_LIMIT};
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::workload::Random;
use verneuil_integration::{paths, watchdog};

use crate::interposer::{Action, CTL, Fault, WRITER};
use crate::scene::{content, each_point, has_hot_journal, is_published, published};

/// Seeds of the random lengths; printed with a failure, as the number of the point.
const SEED: u64 = 81;

const FILL: &str = "CREATE TABLE t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60) SELECT i AS id, printf('%.*c', 1500, char(65+i%26)) x FROM n";
const UPDATE: &str = "UPDATE t SET x=x||'new' WHERE id%20=3";

/// What is left of the spool.
#[derive(Clone, Copy, Debug)]
enum Left {
    AsItWas,
    Nothing,
    Cut,
    Emptied,
    Zeroed,
}

const LEFT: [Left; 5] = [
    Left::Cut,
    Left::AsItWas,
    Left::Zeroed,
    Left::Nothing,
    Left::Emptied,
];

impl Left {
    fn inflict(self, path: &Path, random: &mut Random) -> Result<()> {
        if let Self::Nothing = self {
            return Ok(fs::remove_dir_all(path)?);
        }
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if path.is_dir() {
                self.inflict(&path, random)?;
                continue;
            }
            let len = fs::metadata(&path)?.len();
            let file = fs::File::options().write(true).open(&path)?;
            match self {
                Self::AsItWas | Self::Nothing => {}
                Self::Cut => file.set_len(random.below(len + 1))?,
                Self::Emptied => file.set_len(0)?,
                Self::Zeroed => {
                    file.set_len(0)?;
                    file.set_len(len)?;
                }
            }
        }
        Ok(())
    }
}

fn session(
    setup: &Setup,
    mode: &str,
    fault: Option<&Fault>,
    boot: Option<&Boot>,
) -> Result<Session> {
    let mut config = setup.config();
    config["copier"]["mode"] = json!(mode);
    let mut env = setup.env_with(&config);
    env.extend(fault.map(Fault::env).transpose()?.unwrap_or_default());
    let (uri, load, env) = (&setup.uri(&setup.database()), true, &env);
    let opening = Opening { uri, load, env };
    match boot {
        Some(boot) => Session::open_after_reboot(Program::Rusqlite, &opening, boot),
        None => Session::open(Program::Rusqlite, &opening),
    }
}

/// The power goes while a writer commits or a flush uploads what is in the log.
fn live(setup: &Setup, program: &'static str, at: usize, action: Action) -> Result<Fault> {
    let fault = Fault {
        program,
        files: ["spool", "store", "source/"]
            .map(|name| setup.path(name))
            .to_vec(),
        is_marked: program == WRITER,
        at,
        action,
        log: setup.path("calls"),
    };
    let mut writer = session(
        setup,
        "external",
        Some(&fault).filter(|_| program == WRITER),
        None,
    )?;
    writer.run(&["PRAGMA synchronous=OFF", FILL])?;
    setup.flush()?;
    writer.run(&[UPDATE])?;
    if program == WRITER {
        let lives = writer.run(&[
            "PRAGMA synchronous=FULL",
            ".mark arm",
            UPDATE,
            ".mark disarm",
        ]);
        ensure!(lives.is_ok() == (action == Action::Count), "{lives:?}");
    } else {
        writer.kill();
        let mut command = process::tied(paths::verneuilctl()?);
        command.args(["flush", &setup.spool().to_string_lossy()]);
        command.envs(setup.env()).envs(fault.env()?);
        let done = process::run(&mut command, COMMAND_LIMIT)?;
        ensure!(
            done.status.success() == (action == Action::Count),
            "{}",
            done.stderr
        );
    }
    Ok(fault)
}

fn flush_after(setup: &Setup, boot: &Boot) -> Result<()> {
    let mut command = process::tied(paths::verneuilctl()?);
    command
        .args(["flush", &setup.spool().to_string_lossy()])
        .envs(setup.env());
    let done = process::run(&mut boot.wrap(&command), COMMAND_LIMIT)?;
    if done.status.success() {
        ensure!(
            !has_hot_journal(&setup.database()),
            "flush succeeded beside a hot journal"
        );
        return is_published(setup).context("flush after the reboot said success");
    }
    ensure!(
        !done.stderr.trim().is_empty(),
        "flush failed without a reason"
    );
    Ok(())
}

fn power_losses(program: &'static str) -> Result<()> {
    let _limit = watchdog::limit("power_loss", 600);
    let setup = Setup::new(Kind::Directory)?;
    let calls = live(&setup, program, 0, Action::Count)?.calls()?.len();
    each_point(&format!("power loss of {program}"), calls, |point| {
        let left = LEFT[point % LEFT.len()];
        let setup = Setup::new(Kind::Directory)?;
        live(&setup, program, point, Action::Kill)?;
        let before = published(&setup)?.map(|file| content(&file)).transpose()?;
        let mut random = Random::new(SEED + point as u64);
        left.inflict(&setup.spool(), &mut random)
            .with_context(|| format!("{left:?}"))?;
        let after = (|| {
            let boot = Boot::new(&setup.path(""), 1)?;
            if point % 2 == 0 && setup.spool().exists() {
                flush_after(&setup, &boot)?;
            }
            // Nobody asks for anything but a row; then whatever is published next is what that opener has found.
            let mut next = session(&setup, "in_process", None, Some(&boot))?;
            next.row("SELECT count(*) FROM t")?;
            let answer = next.row(".try PRAGMA verneuil_flush_replication_data")?;
            ensure!(answer == "1", "the opener's flush: {answer}");
            is_published(&setup)?;
            next.run(&[UPDATE, "PRAGMA verneuil_flush_replication_data"])?;
            is_published(&setup)?;
            next.close()?;
            let other = |path: &Path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("boot-"))
            };
            process::until(
                "the old boot's state is gone",
                Duration::from_secs(10),
                || {
                    let boots = fs::read_dir(setup.spool())?
                        .flatten()
                        .filter(|entry| other(&entry.path()))
                        .count();
                    ensure!(boots <= 1, "{boots} boots");
                    Ok(())
                },
            )
        })();
        after.with_context(|| {
            format!(
                "{left:?}, the store held {:?} bytes of text",
                before.map(|text| text.len())
            )
        })
    })
    .map(drop)
}

#[test]
fn a_power_loss_at_any_call_of_a_commit_is_made_good_by_the_next_opener() -> Result<()> {
    power_losses(WRITER)
}

#[test]
fn a_power_loss_at_any_call_of_a_flush_is_made_good_by_the_next_opener() -> Result<()> {
    power_losses(CTL)
}
