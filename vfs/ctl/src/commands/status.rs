//! `verneuilctl status`: what is pending in a spool, and why. The work is `verneuil_copier`'s.

use serde::Serialize;
use verneuil_copier::TargetStatus;
use verneuil_spool::{Database, Spool};
use verneuil_store::printable;

use crate::cli::{Common, Status};
use crate::failure::Failure;
use crate::output::{self, report};
use crate::session;

#[derive(Serialize)]
struct Everything {
    databases: Vec<verneuil_copier::Status>,
    /// Folders whose state of an earlier boot is ignored.
    other_boots: Vec<String>,
}

pub fn run(common: &Common, args: &Status) -> Result<(), Failure> {
    let config = session::config(common)?;
    let dir = args
        .spool
        .as_deref()
        .or(config.spool.as_ref().map(|spool| spool.dir.as_path()))
        .ok_or_else(|| {
            Failure::Usage(
                "which spool? Give SPOOL, or a configuration with replication_spooling_dir"
                    .to_owned(),
            )
        })?;
    let spool = Spool::at(dir);
    let contents = spool.contents().map_err(|error| {
        Failure::Failed(format!(
            "{error}; SPOOL is the replication_spooling_dir of the application's configuration"
        ))
    })?;
    let (mut databases, mut unreadable) = (Vec::new(), 0);
    for folder in &contents.folders {
        match Database::open_existing(&spool, folder) {
            Ok(db) => databases.push(verneuil_copier::status(&db, &config.targets)),
            Err(error) => {
                unreadable += 1;
                report(&format!("{}: {error}", folder.display()));
            }
        }
    }
    databases.sort_by(|a, b| a.path.cmp(&b.path));
    if common.json {
        let other_boots = contents.other_boots.iter();
        output::json(&Everything {
            databases,
            other_boots: other_boots
                .map(|path| path.to_string_lossy().into_owned())
                .collect(),
        })?;
    } else {
        for database in &databases {
            print(database)?;
        }
        for folder in &contents.other_boots {
            output::line(&format!(
                "{}: of an earlier boot, ignored; its databases are compared with the store when they are opened",
                folder.display()
            ))?;
        }
    }
    match unreadable {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "{n} of {} folders of the spool can't be read, see above",
            contents.folders.len()
        ))),
    }
}

fn print(database: &verneuil_copier::Status) -> Result<(), Failure> {
    let name = printable(format!("{}:{}", database.host, database.path).as_bytes());
    let is_up_to_date = database.targets.iter().all(|target| target.up_to_date);
    let state = match &database.reason {
        Some(reason) => format!("NOT REPLICATED: {reason}"),
        None if is_up_to_date => format!("up to date (generation {})", database.generation),
        None => format!(
            "behind by {}, {} pending",
            time(database.lag_ms),
            size(database.pending_bytes)
        ),
    };
    output::line(&format!("{name}: {state}"))?;
    for target in &database.targets {
        if database.targets.len() > 1 || !target.up_to_date || target.error.is_some() {
            output::line(&format!("    {}", of_target(target)))?;
        }
    }
    Ok(())
}

fn of_target(target: &TargetStatus) -> String {
    let mut text = format!("{}: ", target.target);
    text += &match (target.up_to_date, target.generation) {
        (true, generation) => format!("up to date (generation {generation})"),
        (false, 0) => format!("nothing there yet, {} pending", size(target.pending_bytes)),
        (false, generation) => format!(
            "generation {generation}, behind by {}, {} pending",
            time(target.lag_ms),
            size(target.pending_bytes)
        ),
    };
    if let Some(error) = &target.error {
        text += &format!("; last error: {}", printable(error.as_bytes()));
    }
    text
}

#[allow(clippy::cast_precision_loss)] // one decimal is shown
fn time(ms: u64) -> String {
    match ms {
        0..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[allow(clippy::cast_precision_loss)] // one decimal is shown
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
