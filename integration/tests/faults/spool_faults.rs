//! Each file operation of the spool fails, once or from then on: the application's transactions are those of stock SQLite, nobody hangs,
//! a success that is told is one, the cause is named while it lasts, and all arrives once it is gone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::state::{STATE_SQL, check_state, same_bytes};
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

use crate::interposer::{Action, Call, Fault, WRITER, all, sample, shortened, unlogged, wants_all};
use crate::scene::each_point;

/// Longer than a whole life takes, faults and all: a flush that can't succeed says so at once.
const LIFE_LIMIT: Duration = Duration::from_secs(8);
/// Seed of the transactions.
const SEED: u64 = 71;
/// Transactions of one life.
const TRANSACTIONS: usize = 6;

/// A roll-back after a spill, and a shorter file whose every chunk is written: early, for it mends what the log lacks by then.
const REWRITE: [&str; 8] = [
    "PRAGMA cache_size=4",
    "BEGIN",
    "UPDATE data SET tx=9, body=body||body",
    "UPDATE tail SET tx=9",
    "ROLLBACK",
    "DELETE FROM noise",
    "VACUUM",
    "PRAGMA cache_size=-2000",
];

/// Who carries the commits away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copier {
    /// Threads of the application, which have the faults too.
    InProcess,
    /// `verneuilctl flush` between two transactions, which has none.
    Command,
}

/// A life of the application, as it saw it.
struct Life {
    /// What its queries answered.
    rows: Vec<String>,
    /// What each flush answered.
    flushes: Vec<String>,
    /// The status at the end.
    status: String,
    took: Duration,
}

fn transactions() -> Vec<Vec<String>> {
    let options = WorkloadOptions {
        bursts: false,
        reshape: false,
    };
    let mut workload = Workload::new(SEED, options);
    (0..TRANSACTIONS).map(|_| workload.step()).collect()
}

/// Opens, commits, lets the log change its generation, commits, rolls back, shrinks, commits, closes.
fn live(setup: &Setup, copier: Copier, uri: &str, env: &[(String, String)]) -> Result<Life> {
    let began = Instant::now();
    let opening = Opening {
        uri,
        load: uri.contains("vfs=verneuil"),
        env,
    };
    let mut session = Session::open(Program::Rusqlite, &opening)?;
    // The disk below is not what is tested here.
    session.run(&[
        "PRAGMA synchronous=OFF",
        "CREATE TABLE own(k INTEGER PRIMARY KEY, body)",
    ])?;
    let (mut rows, mut flushes) = (Vec::new(), Vec::new());
    for (k, transaction) in transactions().iter().enumerate() {
        if k == 1 {
            rows.extend(session.rows(&REWRITE)?);
        }
        // Pages that no later transaction writes: what is lost of it stays lost.
        session.run(&[format!(
            "INSERT INTO own VALUES({k}, replace(hex(zeroblob(4500)), '0', '{k}'))"
        )])?;
        session.run(transaction)?;
        rows.extend(session.rows(&[STATE_SQL])?);
        if k % 3 == 2 {
            match copier {
                Copier::InProcess => {
                    flushes.extend(session.rows(&[".try PRAGMA verneuil_flush_replication_data"])?)
                }
                // May fail while there is no spool.
                Copier::Command => drop(setup.ctl(&["flush", &setup.spool().to_string_lossy()])?),
            }
        }
    }
    rows.extend(session.rows(&["PRAGMA integrity_check", STATE_SQL])?);
    if copier == Copier::InProcess {
        flushes.extend(session.rows(&[".try PRAGMA verneuil_flush_replication_data"])?);
    }
    let status = session.row(".try PRAGMA verneuil_status")?;
    // Fails unless the program ends well.
    session.close()?;
    Ok(Life {
        rows,
        flushes,
        status,
        took: began.elapsed(),
    })
}

fn fault(setup: &Setup, at: usize, action: Action) -> Fault {
    Fault {
        program: WRITER,
        // And what the spool is known by.
        files: vec![
            setup.spool(),
            PathBuf::from("/proc/sys/kernel/random/boot_id"),
            PathBuf::from("/dev/urandom"),
        ],
        is_marked: false,
        at,
        action,
        log: setup.path("calls"),
    }
}

fn faulted(setup: &Setup, copier: Copier, at: usize, action: Action) -> Result<(Life, Fault)> {
    let mut config = setup.config();
    config["copier"]["mode"] = json!(match copier {
        Copier::InProcess => "in_process",
        Copier::Command => "external",
    });
    config["copier"]["drain_on_close_ms"] = json!(200);
    let fault = fault(setup, at, action);
    let mut env = setup.env_with(&config);
    env.extend(fault.env()?);
    let life = live(setup, copier, &setup.uri(&setup.database()), &env)?;
    Ok((life, fault))
}

/// One fault, and all that has to hold. Gives the operation that it happened to.
fn survives(
    copier: Copier,
    at: usize,
    action: Action,
    expected: &[String],
) -> Result<Option<String>> {
    let setup = Setup::new(Kind::Directory)?;
    let (life, fault) = faulted(&setup, copier, at, action)?;
    ensure!(
        life.rows == expected,
        "the application saw {:?}, not {expected:?}",
        life.rows
    );
    ensure!(life.took < LIFE_LIMIT, "it took {:?}", life.took);
    let calls = fault.calls()?;
    let restored = setup.path("restored.db");
    let is_told = life.flushes.last().is_some_and(|answer| answer == "1");
    if is_told {
        // A success that was told is one, without any help.
        setup.restore(&setup.database(), &restored)?;
        same_bytes(&setup.database(), &restored).context("the flush had said success")?;
    }
    for answer in &life.flushes {
        ensure!(
            answer == "1" || answer.starts_with("error: "),
            "a flush answered {answer:?}"
        );
    }
    if let Action::FailFromNow(errno) = action
        && at <= calls.len()
    {
        names_the_cause(&life, copier, &format!("(os error {})", errno as i32))?;
    }
    // The fault is gone. An opener, since there may be no spool yet.
    let mut source = setup.writer(Program::Rusqlite)?;
    source.row(STATE_SQL)?;
    setup.flush()?;
    source.close()?;
    setup.restore(&setup.database(), &restored)?;
    same_bytes(&setup.database(), &restored)?;
    ensure!(check_state(&restored)? == u64::try_from(TRANSACTIONS)?);
    Ok(at
        .checked_sub(1)
        .and_then(|at| calls.get(at))
        .map(|call| call.operation(&setup.path(""))))
}

/// While a fault lasts, something that the user asks says what it is.
fn names_the_cause(life: &Life, copier: Copier, cause: &str) -> Result<()> {
    let flush = life.flushes.last().map_or("", String::as_str);
    let status: serde_json::Value =
        serde_json::from_str(&life.status).with_context(|| format!("status: {}", life.status))?;
    if copier == Copier::Command {
        // Who does not commit after the last fault has nothing to tell.
        ensure!(
            status["replicated"] == true || life.status.contains(cause),
            "the status does not name {cause:?}: {}",
            life.status
        );
        return Ok(());
    }
    let is_all_there = flush == "1";
    ensure!(
        is_all_there || flush.contains(cause) || life.status.contains(cause),
        "neither flush nor status names {cause:?}: {flush}; {}",
        life.status
    );
    Ok(())
}

/// What stock SQLite answers, and the calls of a life without a fault.
fn without_a_fault(copier: Copier) -> Result<(Vec<String>, Vec<Call>, PathBuf)> {
    let setup = Setup::new(Kind::Directory)?;
    let uri = format!("file:{}", setup.path("stock.db").display());
    let expected = live(&setup, Copier::Command, &uri, &[])?.rows;
    let (life, fault) = faulted(&setup, copier, 0, Action::Count)?;
    ensure!(life.rows == expected, "{:?}", life.rows);
    ensure!(
        life.flushes.iter().all(|answer| answer == "1"),
        "{:?}",
        life.flushes
    );
    Ok((expected, fault.calls()?, setup.path("")))
}

fn all_are_survived(copier: Copier) -> Result<()> {
    let _limit = watchdog::limit("spool_faults", 3_000);
    let (expected, calls, folder) = without_a_fault(copier)?;
    let mut points = if wants_all()? {
        all(&calls)
    } else {
        sample(&calls, &folder)
    };
    points.extend(shortened(&calls));
    points.extend(unlogged(&calls));
    let hit = each_point(
        &format!("{copier:?}, {} calls", calls.len()),
        points.len(),
        |k| {
            let (at, action) = points[k - 1];
            let hit = survives(copier, at, action, &expected).with_context(|| {
                let call = calls.get(at - 1).map(|call| call.operation(&folder));
                format!("{action:?} at call {at} (as a rule {call:?})")
            })?;
            Ok(hit.map(|operation| format!("{operation} {action:?}")))
        },
    )?;
    let distinct: BTreeSet<String> = hit.into_iter().flatten().collect();
    eprintln!(
        "{copier:?}: {} combinations of operation and fault",
        distinct.len()
    );
    Ok(())
}

#[test]
fn no_fault_of_the_spool_reaches_an_application_whose_copier_is_elsewhere() -> Result<()> {
    all_are_survived(Copier::Command)
}

#[test]
fn no_fault_of_the_spool_reaches_an_application_that_uploads_itself() -> Result<()> {
    all_are_survived(Copier::InProcess)
}
