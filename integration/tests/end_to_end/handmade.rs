//! States whose file header does not tell that the file has changed: an open reader on the mount must see each snapshot whole
//! all the same.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use verneuil_format::PatchBudget;
use verneuil_integration::publish::Publisher;
use verneuil_integration::session::{Program, Session};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::state::{STATE_SQL, whole};
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

const REFRESH: Duration = Duration::from_millis(50);
const SETTLED: Duration = Duration::from_millis(600);
const VERSIONS: u64 = 12;

/// Offsets in the header of a database file.
const WRITE_VERSION: usize = 18;
const CHANGE_COUNTER: usize = 24;
const VERSION_VALID_FOR: usize = 92;

#[test]
fn an_unchanged_change_counter_does_not_hide_a_new_snapshot() -> Result<()> {
    follow(|bytes| {
        for field in [CHANGE_COUNTER, VERSION_VALID_FOR] {
            bytes[field..field + 4].copy_from_slice(&77_u32.to_be_bytes());
        }
    })
}

#[test]
fn a_wal_mode_header_is_served_so_that_it_opens_and_each_new_snapshot_is_seen() -> Result<()> {
    // In WAL mode the counter in the file stands still as well: sqlite changes it only at the first write.
    follow(|bytes| {
        bytes[WRITE_VERSION..WRITE_VERSION + 2].copy_from_slice(&[2, 2]);
        for field in [CHANGE_COUNTER, VERSION_VALID_FOR] {
            bytes[field..field + 4].copy_from_slice(&3_u32.to_be_bytes());
        }
    })
}

#[test]
fn a_header_that_turns_to_wal_mode_and_back_is_followed() -> Result<()> {
    let mut version = 0;
    follow(move |bytes| {
        version += 1;
        if version % 3 == 0 {
            bytes[WRITE_VERSION..WRITE_VERSION + 2].copy_from_slice(&[2, 2]);
        }
    })
}

#[test]
fn a_counter_that_goes_back_to_an_older_value_is_followed() -> Result<()> {
    let mut version = 0_u32;
    follow(move |bytes| {
        version += 1;
        let counter = [10_u32, 11, 10, 10, 11][version as usize % 5];
        for field in [CHANGE_COUNTER, VERSION_VALID_FOR] {
            bytes[field..field + 4].copy_from_slice(&counter.to_be_bytes());
        }
    })
}

/// Publishes the states of a workload, each rewritten by `rewrite`, and looks at each through connections that stay open.
fn follow(mut rewrite: impl FnMut(&mut [u8])) -> Result<()> {
    let _limit = watchdog::limit("handmade", 180);
    let setup = Setup::new(Kind::Directory)?;
    let original = setup.path("original.db");
    let mut source = Source::create(&original)?;
    let mut publisher = Publisher::new(&setup, &setup.database())?;
    publisher.publish(&source.next(&mut rewrite)?, PatchBudget::ORDINARY)?;
    let mount = setup.mount(REFRESH)?;
    let mut readers = Vec::new();
    for program in Program::ALL {
        // A large cache keeps old pages for as long as sqlite believes that nothing changed.
        let mut reader = setup.reader(program, &mount).with_context(|| mount.log())?;
        reader.run(&["PRAGMA cache_size=-20000"])?;
        readers.push(reader);
    }
    look(&mut readers, source.workload.committed())?;
    for version in 1..VERSIONS {
        // As patches and as whole chunks: they reach the reader on different ways.
        let budget = if version % 2 == 0 {
            PatchBudget::ORDINARY
        } else {
            PatchBudget::NONE
        };
        publisher.publish(&source.next(&mut rewrite)?, budget)?;
        std::thread::sleep(SETTLED);
        look(&mut readers, source.workload.committed())
            .with_context(|| format!("version {version}"))?;
    }
    for mut reader in readers {
        ensure!(reader.row("PRAGMA integrity_check")? == "ok");
        reader.close()?;
    }
    mount.terminate()
}

fn look(readers: &mut [Session], expected: u64) -> Result<()> {
    for reader in readers {
        let seen =
            whole(&reader.row(STATE_SQL)?).with_context(|| format!("{:?}", reader.program()))?;
        ensure!(
            seen == expected,
            "{:?} sees transaction {seen}, {expected} was published",
            reader.program()
        );
    }
    Ok(())
}

/// A database of sqlite's own, whose file is taken after every few transactions.
struct Source {
    connection: Connection,
    file: std::path::PathBuf,
    workload: Workload,
}

impl Source {
    fn create(file: &Path) -> Result<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch("PRAGMA synchronous=OFF")?;
        let workload = Workload::new(23, WorkloadOptions::default());
        Ok(Self {
            connection,
            file: file.to_owned(),
            workload,
        })
    }

    fn next(&mut self, rewrite: &mut impl FnMut(&mut [u8])) -> Result<Vec<u8>> {
        for _ in 0..4 {
            let lines = self.workload.step();
            self.connection.execute_batch(&lines.join(";\n"))?;
        }
        let mut bytes = std::fs::read(&self.file)?;
        rewrite(&mut bytes);
        Ok(bytes)
    }
}
