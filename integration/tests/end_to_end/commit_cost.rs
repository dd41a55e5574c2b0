//! What replication costs a commit, counted in system calls: nothing that grows with the database, no fsync, and not more
//! than a dozen calls.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::syscalls::{Call, Trace, summary};
use verneuil_integration::{paths, watchdog};

const MIB: u64 = 1 << 20;

/// What a first commit may read of a database that the store does not know.
const FIRST_COMMIT_READ_MAX_BYTES: u64 = 2 * MIB;

/// System calls that a small commit may need beyond those of sqlite's own VFS.
const CALLS_MORE_MAX: usize = 12;

/// Commits per count.
const COMMITS: usize = 40;

const TRACE_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_first_commit_on_an_unreplicated_gigabyte_reads_less_than_two_mebibytes() -> Result<()> {
    let _limit = watchdog::limit("first_commit", 300);
    let setup = Setup::new(Kind::Directory)?;
    let database = setup.database();
    fill(&database, 1_024 * MIB)?;
    let trace = commits(&setup, &database, true, 1)?;
    let calls = trace.between("open", "end-0")?;
    let own = bytes_read(&calls, &database);
    let all: Vec<&Call> = trace.of_all_threads("open", "end-0")?.iter().collect();
    eprintln!(
        "the committing thread read {own} bytes, all threads {}",
        bytes_read(&all, &database)
    );
    ensure!(
        own > 0,
        "the trace shows no reads at all: it is not understood"
    );
    ensure!(
        own < FIRST_COMMIT_READ_MAX_BYTES,
        "the first commit read {own} bytes: {}",
        summary(&calls)
    );
    Ok(())
}

#[test]
fn a_small_commit_costs_no_fsync_and_at_most_twelve_calls_more_with_one_megabyte() -> Result<()> {
    small_commits(MIB)
}

#[test]
fn a_small_commit_costs_no_fsync_and_at_most_twelve_calls_more_with_one_gigabyte() -> Result<()> {
    small_commits(1_024 * MIB)
}

fn small_commits(len_bytes: u64) -> Result<()> {
    let _limit = watchdog::limit("small_commits", 400);
    let setup = Setup::new(Kind::Directory)?;
    let database = setup.database();
    fill(&database, len_bytes)?;
    let stock = commits(&setup, &database, false, COMMITS)?;
    // The steady state is what counts here: the store knows the database.
    commits(&setup, &database, true, 1)?;
    setup.flush()?;
    let ours = commits(&setup, &database, true, COMMITS)?;
    let (mut most, mut sum, mut seals, mut at_seals) = (0, 0, 0, 0);
    // The first commit of a connection also opens things; it has no counterpart in the steady state.
    for commit in 1..COMMITS {
        let (begin, end) = (format!("begin-{commit}"), format!("end-{commit}"));
        let (stock, ours) = (stock.between(&begin, &end)?, ours.between(&begin, &end)?);
        let message = || {
            format!(
                "commit {commit}: {}; stock: {}",
                summary(&ours),
                summary(&stock)
            )
        };
        let syncs = |calls: &[&Call]| calls.iter().filter(|call| call.is_sync()).count();
        ensure!(
            syncs(&stock) > 0 && syncs(&ours) == syncs(&stock),
            "other syncs, {}",
            message()
        );
        let more = ours.len().saturating_sub(stock.len());
        let appends = ours
            .iter()
            .filter(|call| call.name == "pwrite64" && call.arguments.contains("/spool/"))
            .count();
        ensure!(
            (1..=2).contains(&appends),
            "{appends} appends to the log, {}",
            message()
        );
        ensure!(more <= CALLS_MORE_MAX, "{more} calls more, {}", message());
        most = most.max(more);
        sum += more;
        // The copier sealed in the middle of the append (protocol, writer step 6): it appended once more. strace makes that likelier
        // than it is.
        if appends == 2 {
            seals += 1;
            at_seals = at_seals.max(more);
        }
    }
    let mean = sum / (COMMITS - 1).max(1);
    eprintln!(
        "{} MiB: at most {most} calls more, {mean} in the mean; {seals} met a seal, with at most {at_seals}",
        len_bytes / MIB
    );
    ensure!(
        seals * 4 < COMMITS,
        "{seals} of {COMMITS} commits met a seal: that is no exception"
    );
    setup.flush()?;
    if len_bytes == MIB {
        setup.restored_equals_source()?;
    }
    Ok(())
}

fn commits(setup: &Setup, database: &Path, replicated: bool, commits: usize) -> Result<Trace> {
    let program: PathBuf = paths::bundled_sqlite()?;
    let extension = paths::extension()?;
    let extension = extension.to_str().context("a path that is not UTF-8")?;
    let commits = commits.to_string();
    if replicated {
        let uri = setup.uri(database);
        Trace::record(
            &program,
            &["commit-and-mark", &uri, extension, &commits],
            &setup.env(),
            TRACE_LIMIT,
        )
    } else {
        let uri = format!("file:{}?vfs=unix", database.display());
        Trace::record(
            &program,
            &["commit-and-mark", &uri, &commits],
            &[],
            TRACE_LIMIT,
        )
    }
}

fn bytes_read(calls: &[&Call], database: &Path) -> u64 {
    calls
        .iter()
        .filter(|call| call.is_read() && call.on_file(database))
        .map(|call| u64::try_from(call.returned).unwrap_or(0))
        .sum()
}

/// A database of about this length, written by sqlite's own VFS.
fn fill(database: &Path, len_bytes: u64) -> Result<()> {
    let mut connection = Connection::open(database)?;
    connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(
        "CREATE TABLE small(id INTEGER PRIMARY KEY, value INTEGER); INSERT INTO small VALUES(1, 0);
         CREATE TABLE large(id INTEGER PRIMARY KEY, body BLOB);",
    )?;
    let mut written = 0;
    while written < len_bytes {
        let piece = len_bytes.min(4 * MIB) / 4;
        transaction.execute(
            "INSERT INTO large(body) VALUES(zeroblob(?1))",
            [i64::try_from(piece)?],
        )?;
        written += piece;
    }
    transaction.commit()?;
    // What is read is counted, not how fast: but the next program must not wait for this one's pages.
    connection.close().map_err(|(_, error)| error)?;
    std::fs::File::open(database)?.sync_all()?;
    Ok(())
}
