//! The copier is killed before each of its file operations on spool and store: whatever it had published is a committed state, and the next
//! flush publishes the file. `verneuilctl flush`, `copy` and `sync`, and the threads of an application.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use verneuil_integration::process::{self, COMMAND_LIMIT};
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{HOST, Kind, Setup};
use verneuil_integration::state::same_bytes;
use verneuil_integration::{paths, watchdog};

use crate::interposer::{Action, CTL, Fault, WRITER};
use crate::scene::{content, each_point};

/// `verneuilctl copy` that makes no call for so long has nothing to do.
const IDLE: Duration = Duration::from_millis(60);

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT NOT NULL)";
/// More than one chunk.
const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60) INSERT INTO t SELECT i, printf('%.*c', 1500, char(65+i%26)) FROM n";
const UPDATE: &str = "UPDATE t SET x=x||'new' WHERE id%20=3";
/// Touches one of the chunks that [`UPDATE`] touches, and not the other.
const OTHER: &str = "UPDATE t SET x=x||'other' WHERE id=1";

/// What the copier finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// Nothing is published, everything is to do.
    First,
    /// Commits in the log, over a published base.
    Log,
    /// Somebody has committed without Verneuil.
    Foreign,
    /// A writer died between its commit and its append.
    Leftovers,
    /// As [`Scene::Log`], for two stores.
    TwoTargets,
}

fn config(setup: &Setup, scene: Scene, mode: &str) -> Value {
    let mut config = setup.config();
    config["copier"]["mode"] = json!(mode);
    if scene == Scene::TwoTargets {
        let second = json!({"directory": {"path": setup.path("store2")}});
        config["replication_targets"] = json!([setup.target_json(), second]);
    }
    config
}

fn session(setup: &Setup, config: &Value, fault: Option<&Fault>) -> Result<Session> {
    let mut env = setup.env_with(config);
    env.extend(fault.map(Fault::env).transpose()?.unwrap_or_default());
    let uri = setup.uri(&setup.database());
    let (load, env) = (true, &env);
    let opening = Opening {
        uri: &uri,
        load,
        env,
    };
    let mut session = Session::open(Program::Rusqlite, &opening)?;
    session.run(&["PRAGMA synchronous=OFF"])?;
    Ok(session)
}

/// Prepares what the copier finds; gives the contents that a store may hold from then on.
fn prepare(setup: &Setup, scene: Scene) -> Result<Vec<String>> {
    let config = config(setup, scene, "external");
    let mut writer = session(setup, &config, None)?;
    writer.run(&[TABLE, FILL])?;
    let mut legal = Vec::new();
    if scene != Scene::First {
        setup
            .ctl_with(&config, &["flush", &setup.spool().to_string_lossy()])?
            .ok()?;
        legal.push(content(&setup.database())?);
    }
    match scene {
        Scene::Log | Scene::TwoTargets => writer.run(&[UPDATE, UPDATE])?,
        Scene::First => {}
        Scene::Foreign => {
            let uri = format!("file:{}", setup.database().display());
            let opening = Opening {
                uri: &uri,
                load: false,
                env: &[],
            };
            let mut stock = Session::open(Program::Rusqlite, &opening)?;
            stock.run(&[UPDATE])?;
            stock.close()?;
        }
        Scene::Leftovers => {
            let dying = Fault {
                program: WRITER,
                files: vec![setup.spool()],
                is_marked: true,
                // The first looks at the control page, at begin and end; the log is opened after that.
                at: 3,
                action: Action::Kill,
                log: setup.path("calls-of-the-dead"),
            };
            let mut dead = session(setup, &config, Some(&dying))?;
            ensure!(dead.run(&[".mark arm", UPDATE]).is_err());
            let last = dying.calls()?.pop().context("it died at a call")?;
            ensure!(
                last.path.contains("/log-"),
                "the writer died elsewhere: {last:?}"
            );
        }
    }
    writer.close()?;
    legal.push(content(&setup.database())?);
    Ok(legal)
}

fn fault(setup: &Setup, program: &'static str, at: usize, action: Action) -> Fault {
    Fault {
        program,
        files: ["spool", "store"].map(|name| setup.path(name)).to_vec(),
        is_marked: false,
        at,
        action,
        log: setup.path("calls"),
    }
}

/// The content of each store's version that there is.
fn stored(setup: &Setup, scene: Scene) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for store in ["store", "store2"].map(|name| setup.path(name)) {
        if store.join(setup.manifest_key(&setup.database())).exists() {
            let mut config = config(setup, scene, "external");
            config["replication_targets"] = json!([{"directory": {"path": store}}]);
            let out = store.with_extension("restored");
            let (source, path) = (setup.database(), out.to_string_lossy().into_owned());
            let source = source.to_string_lossy();
            let arguments = ["restore", "-s", &source, "--hostname", HOST, "-o", &path];
            setup
                .ctl_with(&config, &arguments)?
                .ok()
                .context("what the dead copier published")?;
            found.push((out.clone(), content(&out)?));
        }
    }
    Ok(found)
}

/// After a death: what is published is a committed state, and the next flush publishes the file to all.
fn all_is_well(setup: &Setup, scene: Scene, legal: &[String]) -> Result<()> {
    for (out, content) in stored(setup, scene)? {
        ensure!(
            legal.contains(&content),
            "{} is no committed state",
            out.display()
        );
    }
    let config = config(setup, scene, "external");
    setup
        .ctl_with(&config, &["flush", &setup.spool().to_string_lossy()])?
        .ok()?;
    let stores = if scene == Scene::TwoTargets { 2 } else { 1 };
    let all = stored(setup, scene)?;
    ensure!(
        all.len() == stores,
        "{} of {stores} stores have it",
        all.len()
    );
    all.iter()
        .try_for_each(|(out, _)| same_bytes(&setup.database(), out))
}

fn command(setup: &Setup, config: &Value, arguments: &[&str], fault: &Fault) -> Result<Command> {
    let mut command = process::tied(paths::verneuilctl()?);
    command
        .args(arguments)
        .envs(setup.env_with(config))
        .envs(fault.env()?);
    Ok(command)
}

/// Runs a command to its end or death.
fn run(setup: &Setup, config: &Value, arguments: &[&str], fault: &Fault) -> Result<()> {
    let done = process::run(
        &mut command(setup, config, arguments, fault)?,
        COMMAND_LIMIT,
    )?;
    died_or_did_well(fault, done.status, &done.stderr)
}

fn died_or_did_well(fault: &Fault, status: std::process::ExitStatus, said: &str) -> Result<()> {
    let died = status.signal() == Some(Signal::SIGKILL as i32);
    let is_due = fault.action == Action::Kill && fault.has_happened()?;
    ensure!(
        if is_due { died } else { status.success() },
        "{status}: {said}"
    );
    Ok(())
}

/// Runs `verneuilctl copy` until it is idle or dead, and ends it.
fn copy(setup: &Setup, config: &Value, fault: &Fault) -> Result<()> {
    let spool = setup.spool();
    let mut command = command(setup, config, &["copy", &spool.to_string_lossy()], fault)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("could not start verneuilctl")?;
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let (mut last, mut since) = (0, Instant::now());
    while child.try_wait()?.is_none() {
        let now = len(&fault.log);
        if now != last {
            (last, since) = (now, Instant::now());
        } else if now > 0 && since.elapsed() > IDLE {
            // It may die just now.
            let _ = kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM);
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = process::wait(&mut child, COMMAND_LIMIT)?;
    died_or_did_well(fault, status, "verneuilctl copy")
}

/// Kills at each call, counted in a life without a death.
fn each(
    what: &str,
    scene: Scene,
    program: &'static str,
    act: impl Fn(&Setup, &Fault) -> Result<()> + Sync,
) -> Result<()> {
    let setup = Setup::new(Kind::Directory)?;
    prepare(&setup, scene)?;
    let whole = fault(&setup, program, 0, Action::Count);
    act(&setup, &whole)?;
    let calls = whole.calls()?;
    each_point(&format!("{what}, {scene:?}"), calls.len(), |at| {
        let setup = Setup::new(Kind::Directory)?;
        let mut legal = prepare(&setup, scene)?;
        act(&setup, &fault(&setup, program, at, Action::Kill))?;
        // It may have committed something itself, be it half: who opens it next says.
        let config = config(&setup, scene, "external");
        let mut next = session(&setup, &config, None)?;
        next.row("SELECT count(*) FROM sqlite_schema")?;
        legal.push(content(&setup.database())?);
        if at % 2 == 0 {
            // Its record must not hide what the dead copier had claimed.
            next.run(&[OTHER])?;
            legal.push(content(&setup.database())?);
        }
        all_is_well(&setup, scene, &legal)?;
        next.close().map(drop)
    })
    .map(drop)
}

fn flushes(scene: Scene) -> Result<()> {
    let _limit = watchdog::limit("copier_points", 900);
    each("flush", scene, CTL, |setup, fault| {
        let spool = setup.spool();
        let config = config(setup, scene, "external");
        run(setup, &config, &["flush", &spool.to_string_lossy()], fault)
    })
}

#[test]
fn a_flush_killed_at_any_call_publishes_committed_states_only() -> Result<()> {
    flushes(Scene::Log)?;
    flushes(Scene::First)
}

#[test]
fn the_same_for_catch_ups_with_foreign_commits_and_leftovers() -> Result<()> {
    flushes(Scene::Foreign)?;
    flushes(Scene::Leftovers)
}

#[test]
fn the_same_for_two_targets() -> Result<()> {
    flushes(Scene::TwoTargets)
}

#[test]
fn a_copier_process_killed_at_any_call_publishes_committed_states_only() -> Result<()> {
    let _limit = watchdog::limit("copier_points", 900);
    each("copy", Scene::Log, CTL, |setup, fault| {
        copy(setup, &config(setup, Scene::Log, "external"), fault)
    })
}

#[test]
fn an_application_killed_at_any_call_of_its_copier_publishes_committed_states_only() -> Result<()> {
    let _limit = watchdog::limit("copier_points", 900);
    each("in process", Scene::Log, WRITER, |setup, fault| {
        let fault = Fault {
            is_marked: true,
            ..fault.clone()
        };
        let mut writer = session(
            setup,
            &config(setup, Scene::Log, "in_process"),
            Some(&fault),
        )?;
        let lives = writer.run(&[
            ".mark arm",
            UPDATE,
            "PRAGMA verneuil_flush_replication_data",
        ]);
        let lives = lives.and_then(|()| writer.run(&[".mark disarm"]));
        let is_due = fault.action == Action::Kill && fault.has_happened()?;
        ensure!(lives.is_ok() != is_due, "{lives:?}");
        Ok(())
    })
}

#[test]
fn a_sync_killed_at_any_call_publishes_committed_states_only() -> Result<()> {
    let _limit = watchdog::limit("copier_points", 900);
    for (what, option) in [("sync", None), ("sync --optimize", Some("--optimize"))] {
        each(what, Scene::Log, CTL, |setup, fault| {
            let database = setup.database();
            let database = database.to_string_lossy();
            let arguments: Vec<&str> = ["sync"]
                .into_iter()
                .chain(option)
                .chain([&*database])
                .collect();
            run(
                setup,
                &config(setup, Scene::Log, "external"),
                &arguments,
                fault,
            )
        })?;
    }
    Ok(())
}
