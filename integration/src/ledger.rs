//! The books of several processes that write one database at the same time: like `workload.rs`, but a state can be judged from its
//! content alone, whoever wrote it. Each transaction takes the next number of a common sequence, and enters its process and the
//! process's own number.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::workload::Random;

/// Ids of the changing rows are below this.
const CELLS: u64 = 200;

/// The transactions of one process.
#[derive(Clone, Debug)]
pub struct Ledger {
    process: u64,
    entered: u64,
    random: Random,
}

/// What the books say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Number of the last transaction of all; 0 for a database without books.
    pub last: u64,
    /// How many transactions of each process there are.
    pub entered: BTreeMap<u64, u64>,
}

impl Ledger {
    /// The ledger of a process that has entered nothing yet.
    #[must_use]
    pub fn new(process: u64) -> Self {
        Self::resume(process, 0, process)
    }

    /// The ledger of a process that has entered so many transactions before.
    #[must_use]
    pub fn resume(process: u64, entered: u64, seed: u64) -> Self {
        Self {
            process,
            entered,
            random: Random::new(seed.wrapping_mul(7_919).wrapping_add(1)),
        }
    }

    /// How many transactions it has given out.
    #[must_use]
    pub fn entered(&self) -> u64 {
        self.entered
    }

    /// One transaction, sometimes after a roll-back whose pages had reached the file.
    pub fn step(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.random.below(25) == 0 {
            lines.extend(
                [
                    "PRAGMA cache_size=4",
                    "BEGIN IMMEDIATE",
                    "UPDATE head SET seq=999999999",
                    "UPDATE cells SET seq=999999999",
                    "UPDATE tail SET seq=999999999",
                    "ROLLBACK",
                    "PRAGMA cache_size=-2000",
                ]
                .map(str::to_owned),
            );
        }
        lines.push("BEGIN IMMEDIATE".to_owned());
        lines.extend(self.entry("main"));
        lines.push("COMMIT".to_owned());
        lines
    }

    /// The statements of one transaction on the books of `schema`, without what begins and ends it.
    pub fn entry(&mut self, schema: &str) -> Vec<String> {
        self.entered += 1;
        let (p, n, s) = (self.process, self.entered, schema);
        let id = self.random.below(CELLS);
        // Mostly small rows, some with overflow pages.
        let words = if self.random.below(8) == 0 {
            1 + self.random.below(1_500)
        } else {
            1 + self.random.below(100)
        };
        let change = match self.random.below(8) {
            0 => format!("DELETE FROM {s}.cells WHERE id BETWEEN {id} AND {}", id + 3),
            1 => format!(
                "UPDATE {s}.cells SET seq=(SELECT seq FROM {s}.head), body=replace(hex(zeroblob({words})),'00',printf('%08x',(SELECT seq FROM {s}.head))) WHERE id BETWEEN {id} AND {}",
                id + 3
            ),
            _ => format!(
                "INSERT OR REPLACE INTO {s}.cells(id,seq,body) SELECT {id},seq,replace(hex(zeroblob({words})),'00',printf('%08x',seq)) FROM {s}.head"
            ),
        };
        vec![
            format!("UPDATE {s}.head SET seq=seq+1"),
            format!("INSERT INTO {s}.entries(seq,process,n) SELECT seq,{p},{n} FROM {s}.head"),
            change,
            format!("INSERT OR REPLACE INTO {s}.counts(process,n) VALUES({p},{n})"),
            format!(
                "UPDATE {s}.tail SET seq=(SELECT seq FROM {s}.head), rows=(SELECT count(*) FROM {s}.cells), total=(SELECT coalesce(sum(id*31+seq*7+length(body)),0) FROM {s}.cells)"
            ),
        ]
    }
}

/// The statements that open the books in `schema`, as one transaction.
#[must_use]
pub fn open_books(schema: &str) -> Vec<String> {
    let mut lines = vec!["BEGIN IMMEDIATE".to_owned()];
    for table in [
        "head(seq INTEGER NOT NULL)",
        "cells(id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, body TEXT NOT NULL)",
        "entries(seq INTEGER PRIMARY KEY, process INTEGER NOT NULL, n INTEGER NOT NULL)",
        "counts(process INTEGER PRIMARY KEY, n INTEGER NOT NULL)",
        "tail(seq INTEGER NOT NULL, rows INTEGER NOT NULL, total INTEGER NOT NULL)",
    ] {
        lines.push(format!("CREATE TABLE {schema}.{table}"));
    }
    lines.push(format!(
        "CREATE UNIQUE INDEX {schema}.entries_n ON entries(process,n,seq)"
    ));
    lines.push(format!("INSERT INTO {schema}.head VALUES(0)"));
    lines.push(format!("INSERT INTO {schema}.tail VALUES(0,0,0)"));
    lines.push("COMMIT".to_owned());
    lines
}

/// Whether each query gives 0 tells one committed state from anything else.
const CLAIMS: [(&str, &str); 8] = [
    (
        "head and tail are of one transaction",
        "SELECT (SELECT seq FROM head) <> (SELECT seq FROM tail)",
    ),
    (
        "the entries are 1, 2, 3 … up to the last transaction",
        "SELECT (SELECT seq FROM head) <> (SELECT count(*) FROM entries) OR (SELECT seq FROM head) <> (SELECT coalesce(max(seq),0) FROM entries)",
    ),
    (
        "each process's entries are 1, 2, 3 … up to its count",
        "SELECT count(*) FROM counts c WHERE n <> (SELECT count(*) FROM entries WHERE process=c.process) OR n <> (SELECT max(n) FROM entries WHERE process=c.process)",
    ),
    (
        "each process has a count",
        "SELECT count(*) FROM entries WHERE process NOT IN (SELECT process FROM counts)",
    ),
    (
        "each process's entries are in their order",
        "SELECT count(*) FROM entries a JOIN entries b ON b.process=a.process AND b.n=a.n+1 WHERE b.seq<=a.seq",
    ),
    (
        "the cells are as many as recorded",
        "SELECT (SELECT rows FROM tail) <> (SELECT count(*) FROM cells)",
    ),
    (
        "the cells' sum is as recorded",
        "SELECT (SELECT total FROM tail) <> (SELECT coalesce(sum(id*31+seq*7+length(body)),0) FROM cells)",
    ),
    (
        "each cell holds what its transaction wrote",
        "SELECT count(*) FROM cells WHERE body <> replace(hex(zeroblob(length(body)/8)),'00',printf('%08x',seq))",
    ),
];

/// Checks a database file as a whole, and gives what its books say.
///
/// # Errors
/// When the file is not one committed state, with the claim that fails.
pub fn check_books(file: &Path) -> Result<Books> {
    let name = file.display();
    if std::fs::metadata(file)
        .with_context(|| format!("{name}"))?
        .len()
        == 0
    {
        return Ok(Books::default());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)
        .with_context(|| format!("opening {name}"))?;
    let verdict: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .with_context(|| format!("integrity_check of {name}"))?;
    ensure!(verdict == "ok", "{name} is damaged: {verdict}");
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name='tail'",
        [],
        |row| row.get(0),
    )?;
    if tables == 0 {
        return Ok(Books::default());
    }
    for (claim, sql) in CLAIMS {
        let failures: i64 = connection
            .query_row(sql, [], |row| row.get(0))
            .with_context(|| format!("{name}: {claim}"))?;
        ensure!(failures == 0, "{name}: it does not hold that {claim}");
    }
    read_books(&connection)
}

/// What the books of a database say, unchecked. Recovers it first, as any read does.
///
/// # Errors
/// When it has no books, or sqlite can't read it.
pub fn read_books(connection: &Connection) -> Result<Books> {
    let last: i64 = connection.query_row("SELECT seq FROM head", [], |row| row.get(0))?;
    let mut statement = connection.prepare("SELECT process, n FROM counts")?;
    let mut rows = statement.query([])?;
    let mut entered = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (process, n): (i64, i64) = (row.get(0)?, row.get(1)?);
        entered.insert(u64::try_from(process)?, u64::try_from(n)?);
    }
    Ok(Books {
        last: u64::try_from(last)?,
        entered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_of_two_processes_hold_and_a_lost_page_is_noticed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("books.db");
        let connection = Connection::open(&file)?;
        connection.execute_batch(&open_books("main").join(";"))?;
        let (mut one, mut two) = (Ledger::new(1), Ledger::new(2));
        for _ in 0..20 {
            connection.execute_batch(&one.step().join(";"))?;
            connection.execute_batch(&two.step().join(";"))?;
        }
        let books = check_books(&file)?;
        assert_eq!(books.last, 40);
        assert_eq!(books.entered, BTreeMap::from([(1, 20), (2, 20)]));
        for damage in [
            "UPDATE head SET seq=39",
            "DELETE FROM entries WHERE seq=7",
            "UPDATE counts SET n=19 WHERE process=2",
            "UPDATE entries SET process=3 WHERE seq=7",
            "UPDATE cells SET body='x' WHERE id=(SELECT min(id) FROM cells)",
        ] {
            let copy = dir.path().join("damaged.db");
            drop(std::fs::remove_file(&copy));
            connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
            Connection::open(&copy)?.execute_batch(damage)?;
            assert!(check_books(&copy).is_err(), "{damage} went unnoticed");
        }
        Ok(())
    }
}
