//! `verneuilctl sync`: uploads a fresh snapshot of one database. Opens it through `sqlite`; the upload is the VFS's own
//! flush, which returns when every target has all of it.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};
use serde::Serialize;
use verneuil_config::{CONFIG_VARIABLE, Config};
use verneuil_dbfile::Header;
use verneuil_store::printable;

use crate::cli::{Common, Sync};
use crate::failure::Failure;
use crate::{output, session, sqlite};

/// How a database file begins, unless it is empty.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// `PRAGMA optimize` for a connection that has run no query yet: every table is looked at, with a bound on the work.
const OPTIMIZE_SQL: &str = "PRAGMA optimize=0x10002";

const NO_DATABASE: &str =
    "it is not a SQLite database; give the file of one (an encrypted one is none)";
const IN_WAL_MODE: &str = "it is in WAL mode, which is not replicated; run PRAGMA journal_mode=DELETE on it once, \
                           while nobody else has it open";

#[derive(Serialize)]
struct Synced {
    host: String,
    path: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub fn run(common: &Common, args: &Sync) -> Result<(), Failure> {
    let config = session::config(common)?;
    let (path, metadata) = find(&args.db)?;
    let name = printable(path.as_os_str().as_bytes());
    let failed = |reason: String| Failure::Failed(format!("{name}: {reason}"));
    check_configuration(&config, &path, &metadata).map_err(failed)?;
    let host = config.host_name()?;
    let name = format!("{}:{name}", printable(host.as_bytes()));

    let error = sync(config, &path, args.optimize).err();
    let synced = Synced {
        key: verneuil_format::manifest_key(&host, path.as_os_str().as_bytes()),
        host,
        path: output::json_path(path.as_os_str().as_bytes()),
        error,
    };
    if common.json {
        output::json(&synced)?;
    }
    match synced.error {
        None if common.json => Ok(()),
        None => output::line(&format!("{name}: all is in the store")),
        Some(reason) => Err(Failure::Failed(format!("{name}: {reason}"))),
    }
}

/// The database file that was named: canonical, as the VFS names it, and there. It is never created.
fn find(db: &Path) -> Result<(PathBuf, Metadata), Failure> {
    if db.as_os_str().is_empty() {
        return Err(Failure::Usage(
            "the path of the database is empty".to_owned(),
        ));
    }
    let failed = |reason: String| {
        let name = printable(db.as_os_str().as_bytes());
        Failure::Failed(format!("{name}: {reason}"))
    };
    let found = std::fs::canonicalize(db).and_then(|path| {
        let metadata = std::fs::metadata(&path)?;
        Ok((path, metadata))
    });
    match found {
        Ok((path, metadata)) if metadata.is_file() => Ok((path, metadata)),
        Ok(_) => Err(failed(
            "it is not a regular file; give the file of a database".to_owned(),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(failed(
            "there is no such file; check the path (sync creates no database)".to_owned(),
        )),
        Err(error) => Err(failed(format!(
            "cannot find it: {error}; check the path and its permissions"
        ))),
    }
}

/// Whether the configuration replicates this database, and this user can do it.
fn check_configuration(config: &Config, db: &Path, metadata: &Metadata) -> Result<(), String> {
    let give = format!("give the application's configuration with --config or {CONFIG_VARIABLE}");
    // In this order: a spool without targets is no configuration.
    if config.targets.is_empty() {
        return Err(format!(
            "the configuration has no \"s3\" or \"directory\" entry in \"replication_targets\" to upload to; {give}"
        ));
    }
    let Some(spool) = &config.spool else {
        return Err(format!(
            "the configuration has no \"replication_spooling_dir\"; {give}"
        ));
    };
    if !config.replicate.covers(db) {
        return Err(
            "\"replicate\" in the configuration leaves it out; add it to \"include\", or remove it from \"exclude\""
                .to_owned(),
        );
    }
    // A spool belongs to one user. Made by another one (root, say), it would shut the application out.
    let me = nix::unistd::geteuid().as_raw();
    let (what, owner) = match std::fs::metadata(&spool.dir) {
        Ok(existing) => ("it", existing.uid()),
        Err(_) => ("it does not exist yet, and the database", metadata.uid()),
    };
    if owner != me {
        return Err(format!(
            "this user (uid {me}) cannot use the spool {}: {what} belongs to uid {owner}; run this as the user that the \
             application runs as",
            printable(spool.dir.as_os_str().as_bytes())
        ));
    }
    Ok(())
}

/// Brings the database to a committed state, optimizes it if asked to, and uploads all of it.
fn sync(config: Config, path: &Path, optimize: bool) -> Result<(), String> {
    check_header(path)?;
    let connection = sqlite::open(config, path)?;
    if connection.is_readonly("main").unwrap_or(true) {
        return Err(
            "this user may not write it, and replication needs that; run this as the user that the application runs as"
                .to_owned(),
        );
    }
    // Reads the first page: a hot journal is rolled back now. The schema is not parsed: it may be a newer SQLite's.
    query(&connection, "PRAGMA schema_version").map_err(|error| explain(&error))?;
    if query(&connection, "PRAGMA journal_mode").is_ok_and(|mode| mode.eq_ignore_ascii_case("wal"))
    {
        return Err(IN_WAL_MODE.to_owned());
    }
    if optimize {
        connection
            .execute_batch(&format!("{OPTIMIZE_SQL}; VACUUM"))
            .map_err(|error| {
                format!(
                    "cannot optimize it, nothing was uploaded: {}",
                    explain(&error)
                )
            })?;
    }
    match query(&connection, "PRAGMA verneuil_flush_replication_data") {
        Ok(_) => Ok(()),
        Err(rusqlite::Error::QueryReturnedNoRows) => {
            Err("its VFS does not replicate; this is a bug, please report it".to_owned())
        }
        Err(error) => Err(format!(
            "{}; what is committed stays in the database: try again",
            sqlite::message(&error)
        )),
    }
}

/// Looks before the VFS does: what it opens is replicated from then on, be it a database or not; and one in WAL mode
/// it may not open at all. Under a live journal only SQLite can tell.
fn check_header(path: &Path) -> Result<(), String> {
    let cannot_read = |error| format!("cannot read it: {error}; check its permissions");
    if verneuil_dbfile::journal_is_hot(path).map_err(cannot_read)? {
        return Ok(());
    }
    let mut header = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(Header::LEN_BYTES as u64).read_to_end(&mut header))
        .map_err(cannot_read)?;
    if !header.is_empty() && !header.starts_with(MAGIC) {
        return Err(NO_DATABASE.to_owned());
    }
    match header.first_chunk() {
        Some(header) if Header::parse(header).is_wal() => Err(IN_WAL_MODE.to_owned()),
        _ => Ok(()),
    }
}

/// The only value of a pragma, as text.
fn query(connection: &Connection, sql: &str) -> rusqlite::Result<String> {
    connection.query_row(sql, [], |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => String::from_utf8_lossy(other.as_bytes().unwrap_or_default()).into_owned(),
        })
    })
}

/// What went wrong with a statement, and what to do.
fn explain(error: &rusqlite::Error) -> String {
    let text = sqlite::message(error);
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => NO_DATABASE.to_owned(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("{text}: somebody's transaction did not end in time; try again")
        }
        Some(ErrorCode::DiskFull) => format!("{text}; make room on its file system and try again"),
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("{text}; look at it with PRAGMA integrity_check, and restore it if need be")
        }
        _ => text,
    }
}
