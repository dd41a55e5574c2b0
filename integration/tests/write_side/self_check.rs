//! `VERNEUIL_SELF_CHECK=1` passes over everything that SQLite does to a database, with nine in ten chunks compared through log or manifest, and
//! ends the process when file, change log or manifest is not what it should be.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use verneuil_integration::ledger::{Ledger, open_books};
use verneuil_integration::self_check::{Report, Totals};
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{ExternalCopier, with_mode};

/// Transactions of one session of a run.
const TRANSACTIONS: u64 = 800;

/// A transaction of more than 64 MiB is not logged: rows of this length.
const LARGE_ROWS: u32 = 70;
const LARGE_ROW_LEN_BYTES: u32 = 1 << 20;

const RESHAPING: WorkloadOptions = WorkloadOptions {
    reshape: true,
    bursts: true,
};

fn checked(setup: &Setup, config: &Value, program: Program, database: &Path) -> Result<Session> {
    let report = report(setup);
    Session::open(
        program,
        &Opening {
            uri: &setup.uri(database),
            load: true,
            env: &report.add_to(setup.env_with(config)),
        },
    )
}

fn report(setup: &Setup) -> Report {
    Report::at(setup.path("self-check"))
}

/// The end of a run: the totals prove something, and the store holds the file.
fn concluded(setup: &Setup, what: &str, transactions_min: u64) -> Result<Totals> {
    setup.flush()?;
    setup.restored_equals_source()?;
    let totals = report(setup).totals()?;
    eprintln!("{what}: {totals:?}");
    totals
        .prove_something(transactions_min)
        .context(what.to_owned())?;
    Ok(totals)
}

/// Most of what was published has to be a state that the publishing process has noted.
fn manifests_were_compared(totals: &Totals) -> Result<()> {
    let (compared, unknown) = (totals.get("manifests"), totals.get("manifests_unknown"));
    ensure!(
        compared > 10 && compared > 9 * unknown,
        "{compared} manifests compared, {unknown} not"
    );
    Ok(())
}

#[test]
fn nine_in_ten_chunks_are_compared_while_page_sizes_journals_and_lengths_change() -> Result<()> {
    let _limit = watchdog::limit("self-check", 200);
    for (program, before) in [
        (Program::Rusqlite, "PRAGMA locking_mode=NORMAL"),
        (Program::Python, "PRAGMA locking_mode=EXCLUSIVE"),
    ] {
        let setup = Setup::new(Kind::Directory)?;
        let mut session = checked(&setup, &setup.config(), program, &setup.database())?;
        session.run(&["PRAGMA synchronous=OFF", before])?;
        let mut workload = Workload::new(5, RESHAPING);
        while workload.committed() < TRANSACTIONS {
            session.run(&workload.step())?;
        }
        session.close()?;
        let totals = concluded(&setup, before, TRANSACTIONS)?;
        manifests_were_compared(&totals)?;
    }
    Ok(())
}

#[test]
fn nine_in_ten_chunks_are_compared_with_three_processes_on_one_database() -> Result<()> {
    let _limit = watchdog::limit("self-check", 200);
    let setup = Setup::new(Kind::Directory)?;
    let database = setup.database();
    let mut sessions = Vec::new();
    for (process, program) in (1..).zip(Program::ALL) {
        let mut session = checked(&setup, &setup.config(), program, &database)?;
        session.run(&["PRAGMA synchronous=OFF"])?;
        if process == 1 {
            session.run(&open_books("main"))?;
        }
        sessions.push((process, session));
    }
    let each = TRANSACTIONS / 4;
    std::thread::scope(|scope| -> Result<()> {
        let write = |process, mut session: Session| {
            let mut ledger = Ledger::new(process);
            while ledger.entered() < each {
                session.run(&ledger.step())?;
            }
            session.close().map(drop)
        };
        let threads: Vec<_> = sessions
            .into_iter()
            .map(|(process, session)| scope.spawn(move || write(process, session)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a writer panicked"))?)
    })?;
    // While one process publishes and another waits to write, the third one's transaction is not compared.
    concluded(&setup, "three processes", 2 * each)?;
    Ok(())
}

#[test]
fn nine_in_ten_chunks_are_compared_after_an_overflow_and_whoever_copies() -> Result<()> {
    let _limit = watchdog::limit("self-check", 200);
    for mode in ["in_process", "external"] {
        let setup = Setup::new(Kind::Directory)?;
        let config = with_mode(&setup, mode);
        let copier = (mode == "external").then(|| ExternalCopier::start(&setup));
        let mut session = checked(&setup, &config, Program::Rusqlite, &setup.database())?;
        session.run(&["PRAGMA synchronous=OFF"])?;
        let mut workload = Workload::new(6, WorkloadOptions::default());
        for round in 1..=4 {
            while workload.committed() < TRANSACTIONS / 16 * round {
                session.run(&workload.step())?;
            }
            if round == 2 && mode == "in_process" {
                session.run(&[format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{LARGE_ROWS}) \
                     INSERT INTO noise(body) SELECT randomblob({LARGE_ROW_LEN_BYTES}) FROM n"
                )])?;
                session.run(&workload.step())?;
                session.run(&["DELETE FROM noise", "VACUUM"])?;
            }
        }
        session.close()?;
        concluded(&setup, mode, workload.committed())?;
        if let Some(copier) = copier {
            copier?.terminate()?;
        }
    }
    Ok(())
}

/// A database of some 20 chunks, most of which are left alone, in an application that leaves the copying to others.
fn quiet(setup: &Setup, database: &Path, content: u32) -> Result<Session> {
    let config = with_mode(setup, "external");
    let mut session = checked(setup, &config, Program::Python, database)?;
    session.run(&[
        "CREATE TABLE small(x)".to_owned(),
        "INSERT INTO small VALUES(0)".to_owned(),
        "CREATE TABLE large(id INTEGER PRIMARY KEY, body)".to_owned(),
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40) \
             INSERT INTO large(body) SELECT replace(hex(zeroblob(15000)),'0','{content}') FROM n"
        ),
    ])?;
    setup.flush()?;
    session.run(&["UPDATE small SET x=x+1"])?;
    Ok(session)
}

/// The next transaction of this session finds out, and its process is no more.
fn is_found_out(setup: &Setup, mut session: Session, said: &str) -> Result<()> {
    let Err(error) = session.run(&["UPDATE small SET x=x+1"]) else {
        let totals = session.close().and_then(|_| report(setup).totals());
        anyhow::bail!("nobody has noticed: {totals:?}");
    };
    let error = format!("{error:#}");
    ensure!(
        error.contains("SIGABRT")
            && error.contains("verneuil: self-check: ")
            && error.contains(said),
        "not what was expected ({said}): {error}"
    );
    let Err(reported) = report(setup).totals() else {
        anyhow::bail!("the report says nothing of it");
    };
    ensure!(format!("{reported:#}").contains(said), "{reported:#}");
    Ok(())
}

#[test]
fn a_file_that_was_written_without_locks_ends_the_process() -> Result<()> {
    let setup = Setup::new(Kind::Directory)?;
    let session = quiet(&setup, &setup.database(), 1)?;
    let file = File::options().write(true).open(setup.database())?;
    file.write_all_at(b"a stranger", 10 * 65_536 + 77)?;
    is_found_out(
        &setup,
        session,
        "chunk 10 of the file differs from manifest",
    )
}

#[test]
fn a_manifest_that_describes_something_else_ends_the_process() -> Result<()> {
    let setup = Setup::new(Kind::Directory)?;
    // Of the same spool, as many manifests on, as long, and with the same counter.
    let other = setup.path("source/other.db");
    quiet(&setup, &other, 2)?.close()?;
    let session = quiet(&setup, &setup.database(), 1)?;
    setup.flush()?;
    std::fs::copy(
        setup.manifest_file(&other)?,
        setup.manifest_file(&setup.database())?,
    )?;
    is_found_out(&setup, session, "of the file differs from manifest 2")
}

/// The change log of the only database.
fn current_log(setup: &Setup) -> Result<PathBuf> {
    let mut found = Vec::new();
    for boot in std::fs::read_dir(setup.spool())?.flatten() {
        for folder in std::fs::read_dir(boot.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            for file in std::fs::read_dir(folder.path())?.flatten() {
                if file.file_name().as_encoded_bytes().starts_with(b"log-") {
                    found.push(file.path());
                }
            }
        }
    }
    ensure!(found.len() == 1, "{found:?}");
    found.pop().context("no log")
}

/// Changes the last byte of a record's payload: the end of the image of chunk 0, which no later record writes.
fn falsify(log: &Path, with_checksum: bool) -> Result<()> {
    let mut bytes = std::fs::read(log)?;
    // The first record begins with magic, kind and its length.
    let len: [u8; 4] = bytes.get(8..12).context("an empty log")?.try_into()?;
    let end = u32::from_le_bytes(len) as usize - 8;
    ensure!(
        end > 65_536 && end < bytes.len(),
        "not the image that was expected"
    );
    bytes[end - 1] ^= 1;
    if with_checksum {
        let checksum = xxh3_64(&bytes[..end]);
        bytes[end..end + 8].copy_from_slice(&checksum.to_le_bytes());
    }
    File::options()
        .write(true)
        .open(log)?
        .write_all_at(&bytes, 0)?;
    Ok(())
}

#[test]
fn a_change_log_that_says_something_else_ends_the_process() -> Result<()> {
    for (with_checksum, said) in [
        (true, "chunk 0 of the file differs from the change log"),
        (false, "is damaged at byte 0"),
    ] {
        let setup = Setup::new(Kind::Directory)?;
        let session = quiet(&setup, &setup.database(), 1)?;
        falsify(&current_log(&setup)?, with_checksum)?;
        is_found_out(&setup, session, said)?;
    }
    Ok(())
}
