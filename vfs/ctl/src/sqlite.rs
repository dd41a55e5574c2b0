//! SQLite with the `verneuil` VFS in this process, for the commands that open a database; the only unsafe code of this
//! program. `commands` calls it, `verneuil_vfs` does the registration.

use std::path::Path;
use std::time::Duration;

use rusqlite::auto_extension::{RawAutoExtension, register_auto_extension};
use rusqlite::{Connection, OpenFlags};
use verneuil_config::{Config, CopierMode};

/// How long a statement waits for somebody else's lock: as long as a flush waits for an open transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the database at `path`, which is absolute and exists, with the `verneuil` VFS; once per process. What is committed
/// is uploaded by this process, whoever does it for the application.
///
/// # Errors
/// In words for the user, without the name of the database. No file has been created.
pub fn open(mut config: Config, path: &Path) -> Result<Connection, String> {
    config.copier.mode = CopierMode::InProcess;
    // Whoever flushes has waited for all of it, or knows that it failed.
    config.copier.drain_on_close_ms = 0;
    verneuil_vfs::configure(config).map_err(|error| error.to_string())?;
    register()?;
    let connection = Connection::open_with_flags_and_vfs(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        c"verneuil",
    )
    .map_err(|error| message(&error))?;
    connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(|error| message(&error))?;
    Ok(connection)
}

/// SQLite's own words for what went wrong.
pub fn message(error: &rusqlite::Error) -> String {
    match error {
        // Those that precede the reason are SQLite's: it found the entry point, which found the reason.
        rusqlite::Error::SqliteFailure(_, Some(text)) => text
            .strip_prefix("automatic extension loading failed: verneuil: ")
            .unwrap_or(text)
            .to_owned(),
        other => other.to_string(),
    }
}

/// Registers the VFSes of `verneuil_vfs` with the SQLite of this program.
#[allow(unsafe_code)]
fn register() -> Result<(), String> {
    let entry = verneuil_vfs::auto_extension_entry as *const ();
    // SAFETY: the function has the signature of `RawAutoExtension`; only the names of the opaque types behind its
    // pointers differ. It opens and closes no connection and leaves the list of automatic extensions alone. SQLite is
    // linked in, so that the table that it is handed stays.
    unsafe { register_auto_extension(std::mem::transmute::<*const (), RawAutoExtension>(entry)) }
        .map_err(|error| message(&error))?;
    // SQLite runs automatic extensions when it opens a connection.
    Connection::open_in_memory()
        .map(drop)
        .map_err(|error| message(&error))
}
