//! Is this one committed state? The question that every test asks; `workload.rs` writes what is checked here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};

/// Files are compared in pieces: some are larger than a test should hold in memory.
const COMPARE_LEN_BYTES: u64 = 4 << 20;

/// One statement, hence one read transaction, whose row tells a whole state from a mixture: the three numbers that each
/// transaction writes, the count and the sum that it recorded, both computed anew, and the rows whose body is not made
/// of their own transaction's number.
pub const STATE_SQL: &str = "SELECT (SELECT tx FROM head), (SELECT tx FROM middle), (SELECT tx FROM tail), \
    (SELECT rows FROM tail), (SELECT total FROM tail), (SELECT count(*) FROM data), \
    (SELECT coalesce(sum(id*31+tx*7+length(body)),0) FROM data), \
    (SELECT count(*) FROM data WHERE body <> replace(hex(zeroblob(length(body)/8)),'00',printf('%08x',tx)))";

/// The number of the transaction that a row of [`STATE_SQL`] shows (columns joined by `|`).
///
/// # Errors
/// When the row is a mixture of several states, with the row.
pub fn whole(row: &str) -> Result<u64> {
    let columns: Vec<&str> = row.split('|').collect();
    let [head, middle, tail, rows, total, counted, summed, damaged] = columns[..] else {
        anyhow::bail!("not a row of the state: {row:?}");
    };
    ensure!(
        head == middle && middle == tail,
        "a mixture of transactions {head}, {middle} and {tail}: {row}"
    );
    ensure!(
        rows == counted && total == summed,
        "transaction {head} with rows of another one: {row}"
    );
    ensure!(
        damaged == "0",
        "{damaged} damaged rows in transaction {head}: {row}"
    );
    head.parse()
        .with_context(|| format!("not a number: {row:?}"))
}

/// Checks a database file as a whole and gives the number of the transaction whose state it is; 0 for a file that no
/// transaction of the workload has committed to (an empty one, or one without tables).
///
/// # Errors
/// When the file is not one committed state.
pub fn check_state(file: &Path) -> Result<u64> {
    let name = file.display();
    if std::fs::metadata(file)
        .with_context(|| format!("{name}"))?
        .len()
        == 0
    {
        return Ok(0);
    }
    let uri = format!("file:{name}?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection =
        Connection::open_with_flags(uri, flags).with_context(|| format!("opening {name}"))?;
    let verdict: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .with_context(|| format!("integrity_check of {name}"))?;
    ensure!(verdict == "ok", "{name} is damaged: {verdict}");
    if !has_tables(&connection)? {
        return Ok(0);
    }
    whole(&state_row(&connection)?).with_context(|| format!("{name}"))
}

/// The number of the last transaction that a database holds, 0 for a new one. Recovers it first, as any read does.
///
/// # Errors
/// When sqlite can't read it.
pub fn last_committed(connection: &Connection) -> Result<u64> {
    if !has_tables(connection)? {
        return Ok(0);
    }
    let number: i64 = connection.query_row("SELECT tx FROM head", [], |row| row.get(0))?;
    Ok(u64::try_from(number)?)
}

fn has_tables(connection: &Connection) -> Result<bool> {
    Ok(connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name='tail'",
        [],
        |row| row.get::<_, i64>(0),
    )? > 0)
}

fn state_row(connection: &Connection) -> Result<String> {
    let columns = connection.query_row(STATE_SQL, [], |row| {
        (0..8)
            .map(|column| row.get::<_, i64>(column).map(|value| value.to_string()))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(columns.join("|"))
}

/// Fails unless both files hold the same bytes; says where they differ first.
///
/// # Errors
/// When they differ or can't be read.
pub fn same_bytes(left: &Path, right: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| format!("{}", path.display()));
    let (mut a, mut b) = (open(left)?, open(right)?);
    let (a_len, b_len) = (a.metadata()?.len(), b.metadata()?.len());
    let mut first = 0;
    loop {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        a.by_ref().take(COMPARE_LEN_BYTES).read_to_end(&mut x)?;
        b.by_ref().take(COMPARE_LEN_BYTES).read_to_end(&mut y)?;
        if x != y {
            first += x
                .iter()
                .zip(&y)
                .position(|(x, y)| x != y)
                .unwrap_or(x.len().min(y.len()));
            break;
        }
        if x.is_empty() {
            return Ok(());
        }
        first += x.len();
    }
    anyhow::bail!(
        "{} ({a_len} bytes) and {} ({b_len} bytes) differ from byte {first} on",
        left.display(),
        right.display(),
    );
}
