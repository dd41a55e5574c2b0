//! An open connection on the mount sees new commits at its next SELECT, and one snapshot throughout BEGIN … COMMIT.

use std::time::Duration;

use anyhow::{Result, ensure};
use verneuil_integration::session::{Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::state::{STATE_SQL, whole};
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

const REFRESH: Duration = Duration::from_millis(50);

/// Many times the refresh interval: after this, the *first* SELECT must show what was flushed.
const SETTLED: Duration = Duration::from_millis(1_500);

#[test]
fn on_a_directory_store_the_next_select_sees_new_commits_and_a_transaction_one_snapshot()
-> Result<()> {
    follow(Kind::Directory)
}

#[test]
fn on_s3_the_next_select_sees_new_commits_and_a_transaction_one_snapshot() -> Result<()> {
    follow(Kind::S3)
}

fn follow(kind: Kind) -> Result<()> {
    let _limit = watchdog::limit("follow", 180);
    let setup = Setup::new(kind)?;
    let mut workload = Workload::new(7, WorkloadOptions::default());
    let mut source = setup.writer(Program::Rusqlite)?;
    source.run(&workload.step())?;
    setup.flush()?;
    let mount = setup.mount(REFRESH)?;

    let mut readers = Vec::new();
    for program in Program::ALL {
        readers.push(setup.reader(program, &mount)?);
    }
    // From here on all of them are readers that lock. One that was opened and never asked anything looks to the mount like
    // a reader without locks, and holds the live file back for the others.
    expect_all(&mut readers, 1, "just opened")?;
    for round in 0..4 {
        commit_and_settle(&setup, &mut source, &mut workload)?;
        expect_all(
            &mut readers,
            workload.committed(),
            &format!("round {round}, at the next SELECT"),
        )?;

        let held = workload.committed();
        for reader in &mut readers {
            reader.run(&["BEGIN"])?;
        }
        expect_all(&mut readers, held, "first in the transaction")?;
        // While readers are inside, the live file can't move: that the store moves on must not be seen.
        for _ in 0..3 {
            commit_and_settle(&setup, &mut source, &mut workload)?;
            expect_all(&mut readers, held, "later in the transaction")?;
        }
        for reader in &mut readers {
            reader.run(&["COMMIT"])?;
        }
        std::thread::sleep(SETTLED);
        expect_all(&mut readers, workload.committed(), "after the transaction")?;
    }
    for reader in readers {
        reader.close()?;
    }
    source.close()?;
    mount.terminate()
}

fn commit_and_settle(setup: &Setup, source: &mut Session, workload: &mut Workload) -> Result<()> {
    for _ in 0..5 {
        source.run(&workload.step())?;
    }
    setup.flush()?;
    std::thread::sleep(SETTLED);
    Ok(())
}

fn expect_all(readers: &mut [Session], expected: u64, when: &str) -> Result<()> {
    for reader in readers {
        let seen = whole(&reader.row(STATE_SQL)?)?;
        ensure!(
            seen == expected,
            "{:?} sees transaction {seen} and not {expected}: {when}",
            reader.program()
        );
    }
    Ok(())
}
