//! `verneuilctl flush`: uploads what is pending in a spool. The work is `verneuil_copier`'s.

use std::os::unix::ffi::OsStrExt;

use serde::Serialize;
use verneuil_copier::SpoolFlush;
use verneuil_store::printable;

use crate::cli::{Common, Flush};
use crate::failure::Failure;
use crate::output::{self, report};
use crate::session;

#[derive(Serialize)]
struct Flushed {
    host: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub fn run(common: &Common, args: &Flush) -> Result<(), Failure> {
    let config = session::config(common)?;
    let flush = verneuil_copier::flush_spool(&args.spool, &config).map_err(|error| {
        Failure::Failed(format!(
            "{error}; SPOOL is the replication_spooling_dir of the application's configuration"
        ))
    })?;
    let flushed: Vec<Flushed> = flush
        .databases
        .iter()
        .map(|database| Flushed {
            host: database.hostname.clone(),
            path: output::json_path(database.path.as_os_str().as_bytes()),
            error: database.result.as_ref().err().map(ToString::to_string),
        })
        .collect();
    if common.json {
        output::json(&flushed)?;
    }
    for database in &flush.databases {
        if !common.json && database.result.is_ok() {
            let host = printable(database.hostname.as_bytes());
            let path = printable(database.path.as_os_str().as_bytes());
            output::line(&format!("{host}:{path}: all is in the store"))?;
        }
    }
    left(&flush)
}

/// Says what is not in the stores and why; a failure, unless that is nothing.
pub fn left(flush: &SpoolFlush) -> Result<(), Failure> {
    let mut left: usize = 0;
    for database in &flush.databases {
        if let Err(error) = &database.result {
            left += 1;
            report(&format!(
                "{}:{}: {error}",
                printable(database.hostname.as_bytes()),
                printable(database.path.as_os_str().as_bytes())
            ));
        }
    }
    for (folder, error) in &flush.unreadable {
        left += 1;
        report(&format!("{}: {error}", folder.display()));
    }
    // After a reboot nobody knows what was pending: not to be called a success (P8).
    for folder in &flush.other_boots {
        left += 1;
        report(&format!(
            "{}: what was pending before the last reboot is not known; open its databases once with the verneuil VFS, \
             then flush again",
            folder.display()
        ));
    }
    match left {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "{n} of {} could not be flushed, see above; commits stay in the databases and the spool: try again",
            flush.databases.len() + flush.unreadable.len() + flush.other_boots.len()
        ))),
    }
}
