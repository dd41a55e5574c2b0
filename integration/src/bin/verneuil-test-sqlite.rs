//! rusqlite's bundled sqlite as a program, for `session.rs`, the crash test and the cost test: a process of its own, because
//! an extension that is loaded once stays, and because a writer must be killed.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use verneuil_integration::ledger::{Ledger, open_books, read_books};
use verneuil_integration::state::last_committed;
use verneuil_integration::syscalls::mark;
use verneuil_integration::workload::{Workload, WorkloadOptions};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["session", uri] => session(&open(uri, None)?),
        ["session", uri, extension] => session(&open(uri, Some(extension))?),
        ["write-until-killed", uri, extension, seed, ref before @ ..] => {
            let connection = open(uri, Some(extension))?;
            for sql in before {
                execute(&connection, sql, &mut std::io::sink())?;
            }
            write_until_killed(&connection, seed.parse()?)
        }
        ["write-ledger-until-killed", uri, extension, process] => {
            write_ledger_until_killed(&open(uri, Some(extension))?, process.parse()?)
        }
        ["write-pairs-until-killed", uri, other_uri, extension, seed] => {
            write_pairs_until_killed(&open(uri, Some(extension))?, other_uri, seed.parse()?)
        }
        ["commit-and-mark", uri, extension, commits] => {
            commit_and_mark(uri, Some(extension), commits.parse()?)
        }
        ["commit-and-mark", uri, commits] => commit_and_mark(uri, None, commits.parse()?),
        _ => bail!(
            "usage: session|write-until-killed|write-ledger-until-killed|write-pairs-until-killed|commit-and-mark URI …, as the tests call it"
        ),
    }
}

fn open(uri: &str, extension: Option<&str>) -> Result<Connection> {
    if let Some(extension) = extension {
        load(extension)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = match Connection::open_with_flags(uri, flags) {
        // A database on the mount can't be opened for writing; sqlite itself would fall back only for plain EACCES.
        Err(_) if uri.contains("mode=ro") => Connection::open_with_flags(
            uri,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
        )?,
        other => other.with_context(|| format!("opening {uri}"))?,
    };
    Ok(connection)
}

#[allow(unsafe_code)] // Loading native code is unsafe by nature; this is the one place that does it through rusqlite.
fn load(extension: &str) -> Result<()> {
    let loader = Connection::open_in_memory()?;
    // SAFETY: the extension is the product under test, built by the same workspace; the guard's scope has no other SQL.
    unsafe {
        let _enabled = rusqlite::LoadExtensionGuard::new(&loader)?;
        loader
            .load_extension(Path::new(extension), None::<&str>)
            .context("loading the extension")?;
    }
    Ok(())
}

fn session(connection: &Connection) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if let Some(text) = line.strip_prefix(".print ") {
            writeln!(out, "{text}")?;
            out.flush()?;
        } else if let Some(name) = line.strip_prefix(".mark ") {
            mark(name);
        } else if let Some(sql) = line.strip_prefix(".try ") {
            // Its failure is an answer, and ends nothing.
            if let Err(error) = execute(connection, sql, &mut out) {
                writeln!(out, "error: {}", format!("{error:#}").replace('\n', " "))?;
            }
        } else if !line.trim().is_empty() {
            execute(connection, &line, &mut out)?;
        }
    }
    Ok(())
}

fn execute(connection: &Connection, sql: &str, out: &mut impl Write) -> Result<()> {
    let mut batch = rusqlite::Batch::new(connection, sql);
    while let Some(mut statement) = batch.next()? {
        let columns = statement.column_count();
        let mut rows = statement.query([]).with_context(|| sql.to_owned())?;
        while let Some(row) = rows.next().with_context(|| sql.to_owned())? {
            for column in 0..columns {
                if column > 0 {
                    write!(out, "|")?;
                }
                match row.get_ref(column)? {
                    ValueRef::Null => {}
                    ValueRef::Integer(value) => write!(out, "{value}")?,
                    ValueRef::Real(value) => write!(out, "{value}")?,
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => out.write_all(bytes)?,
                }
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

/// Transactions without end; every line on standard output is the number of a transaction that has committed.
fn write_until_killed(connection: &Connection, seed: u64) -> Result<()> {
    connection.pragma_update(None, "busy_timeout", 10_000)?;
    let mut workload = Workload::resume(
        seed,
        last_committed(connection)?,
        WorkloadOptions::default(),
    );
    let mut sink = std::io::sink();
    println!("{}", workload.committed());
    loop {
        for line in workload.step() {
            execute(connection, &line, &mut sink)?;
        }
        println!("{}", workload.committed());
    }
}

/// Entries into books that others write too, without end; a line on standard output is this process's number of one that has committed.
fn write_ledger_until_killed(connection: &Connection, process: u64) -> Result<()> {
    connection.pragma_update(None, "busy_timeout", 10_000)?;
    let mut ledger = Ledger::new(process);
    loop {
        for line in ledger.step() {
            execute(connection, &line, &mut std::io::sink())?;
        }
        println!("{}", ledger.entered());
    }
}

/// Transactions over two databases without end; a line on standard output says that one has committed.
fn write_pairs_until_killed(connection: &Connection, other_uri: &str, seed: u64) -> Result<()> {
    connection.pragma_update(None, "busy_timeout", 10_000)?;
    connection.execute("ATTACH ?1 AS two", [other_uri])?;
    let mut entered = 0;
    for schema in ["main", "two"] {
        let tables: i64 = connection.query_row(
            &format!("SELECT count(*) FROM {schema}.sqlite_schema WHERE name='tail'"),
            [],
            |row| row.get(0),
        )?;
        if tables == 0 {
            connection.execute_batch(&open_books(schema).join(";"))?;
        } else {
            entered = read_books(connection)?.last;
        }
    }
    let mut ledger = Ledger::resume(1, entered, seed);
    println!("{entered}");
    loop {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut twin = ledger.clone();
        connection.execute_batch(&ledger.entry("main").join(";"))?;
        connection.execute_batch(&twin.entry("two").join(";"))?;
        connection.execute_batch("COMMIT")?;
        println!("{}", ledger.entered());
    }
}

/// The same small commits, each between two marks that `syscalls.rs` finds in a trace.
fn commit_and_mark(uri: &str, extension: Option<&str>, commits: u32) -> Result<()> {
    if let Some(extension) = extension {
        load(extension)?;
    }
    mark("open");
    let connection = open(uri, None)?;
    connection.execute_batch("PRAGMA cache_size=-4000")?;
    for commit in 0..commits {
        mark(&format!("begin-{commit}"));
        connection.execute("UPDATE small SET value = value + 1 WHERE id = 1", [])?;
        mark(&format!("end-{commit}"));
        // Half of them after a pause that lets the copier finish, the others back to back.
        if commit % 2 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }
    mark("done");
    Ok(())
}
