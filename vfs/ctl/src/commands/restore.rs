//! `verneuilctl restore`: a replica as an ordinary database file, or as bytes on standard output. The work is
//! `verneuil_replica`'s.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use indicatif::ProgressBar;
use serde::Serialize;
use verneuil_config::Config;
use verneuil_format::MANIFESTS_PREFIX;
use verneuil_format::limits::MANIFEST_LEN_MAX_BYTES;
use verneuil_replica::{Client, Loaded, Snapshot, restore_to_path, restore_to_writer};
use verneuil_store::printable;

use crate::cli::{Common, Restore};
use crate::failure::Failure;
use crate::session::{self, Database};
use crate::{interrupt, output, time};

#[derive(Serialize)]
struct Restored {
    host: String,
    path: String,
    out: String,
    length_bytes: u64,
    generation: u64,
    commit_time_ns: i64,
}

pub fn run(common: &Common, args: &Restore) -> Result<(), Failure> {
    let out = session::out_file(args.out.as_ref());
    if out.is_none() {
        if common.json {
            return Err(Failure::Usage(
                "--json and the database cannot both go to standard output; give -o OUT".to_owned(),
            ));
        }
        output::refuse_terminal()?;
    }
    let config = session::config(common)?;
    // Before the runtime starts its threads.
    let interrupted = interrupt::watch()?;
    let bar = output::progress_bar();
    let runtime = session::runtime()?;
    let snapshot = runtime.block_on(async {
        tokio::select! {
            result = restore(&config, args, out, &bar) => result,
            // Dropping the restore removes its temp file.
            Ok(signal) = interrupted => Err(Failure::Interrupted(signal)),
        }
    });
    bar.finish_and_clear();
    let snapshot = snapshot?;
    let Some(out) = out else { return Ok(()) };
    let head = snapshot.manifest().head();
    summarise(&snapshot, out);
    if !common.json {
        return Ok(());
    }
    let identity = snapshot.manifest().identity();
    output::json(&Restored {
        host: identity.host.clone(),
        path: output::json_path(&identity.path),
        out: out.display().to_string(),
        length_bytes: head.file_len,
        generation: head.generation.0,
        commit_time_ns: head.commit_time_ns,
    })
}

/// Says on a terminal what was restored: its age matters to whoever restores after an accident.
fn summarise(snapshot: &Snapshot, out: &Path) {
    if io::IsTerminal::is_terminal(&io::stderr()) {
        let head = snapshot.manifest().head();
        eprintln!(
            "{}: {} bytes, as of {}, restored to {}",
            printable(snapshot.database().as_bytes()),
            head.file_len,
            time::utc(head.commit_time_ns),
            out.display()
        );
    }
}

async fn restore(
    config: &Config,
    args: &Restore,
    out: Option<&Path>,
    bar: &ProgressBar,
) -> Result<Arc<Snapshot>, Failure> {
    let client = session::client(config).await?;
    let snapshot = match (&args.manifest, &args.source) {
        (Some(manifest), _) => named_manifest(&client, manifest).await?,
        (None, Some(source)) => {
            let database = Database::find(config, &args.host, source)?;
            newest(&client, &database.key)
                .await?
                .ok_or_else(|| database.missing())?
        }
        (None, None) => return Err(Failure::Usage("give -m MANIFEST or -s PATH".to_owned())),
    };
    let progress = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
    };
    match out {
        Some(out) => restore_to_path(&snapshot, out, &progress).await?,
        None => restore_to_writer(&snapshot, &mut io::stdout(), &progress).await?,
    }
    Ok(snapshot)
}

async fn newest(client: &Client, key: &str) -> Result<Option<Arc<Snapshot>>, Failure> {
    Ok(match client.load(key, None).await? {
        Loaded::New(snapshot) => Some(snapshot),
        Loaded::Missing | Loaded::Unchanged => None,
    })
}

/// The snapshot that a file describes, or, if there is no such file, the newest one under a key.
async fn named_manifest(client: &Client, manifest: &OsStr) -> Result<Arc<Snapshot>, Failure> {
    let path = Path::new(manifest);
    let key = manifest
        .to_str()
        .filter(|key| key.starts_with(MANIFESTS_PREFIX));
    if let Some(key) = key
        && !path.exists()
    {
        return newest(client, key).await?.ok_or_else(|| {
            Failure::Failed(format!(
                "the store has no {key}, and there is no such file; see what is with: verneuilctl ls"
            ))
        });
    }
    let cannot_read = |cause: &dyn std::fmt::Display| {
        Failure::Failed(format!(
            "cannot read the manifest {}: {cause}; give a file, or a key as verneuilctl manifest-name prints it",
            path.display()
        ))
    };
    let meta = std::fs::metadata(path).map_err(|error| cannot_read(&error))?;
    if meta.len() > MANIFEST_LEN_MAX_BYTES as u64 {
        return Err(cannot_read(&"it is too long to be one"));
    }
    let bytes = std::fs::read(path).map_err(|error| cannot_read(&error))?;
    Ok(client.snapshot_of(&bytes, &path.display().to_string())?)
}
