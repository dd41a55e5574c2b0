//! Which keys a configuration has and what their values must be, read through `reader` into the
//! types of `model`; `targets` reads the list `replication_targets`.

mod targets;

use crate::model::*;
use crate::reader::{Object, Result, Source, Value};
use crate::replicate::{Globs, ReplicateConfig};
use std::path::PathBuf;

/// Keys of the design that exist in later versions; named so that the error can say so.
const PLANNED_TOP: &[&str] = &["snapshot_loading_policy", "retention", "budget", "metrics"];

/// A day: no limit that is meant as a time should be longer, and sums of them stay far from
/// overflow.
const DURATION_MAX_MS: u64 = 86_400_000;
/// Length of a host name in POSIX.
const HOSTNAME_LEN_MAX_BYTES: usize = 255;
/// A minute: an application that is asked to end and does not looks hung, and whoever asked kills it.
const DRAIN_MAX_MS: u64 = 60_000;
/// Every open of a database is matched against all globs; who needs more has a folder for a criterion.
const GLOBS_MAX: usize = 256;
/// Length of the longest path on Linux; a longer glob could match nothing.
const GLOB_LEN_MAX_BYTES: usize = 4_096;

pub(crate) fn read_config(text: &str, origin: &str) -> Result<Config> {
    let source = Source::new(text, origin);
    let tree = source.parse()?;
    let mut top = Value::root(source, &tree).object()?;
    let mut config = Config::default();

    if let Some(value) = top.optional("make_default") {
        config.make_default = value.boolean()?;
    }
    if let Some(value) = top.optional("tempdir") {
        config.tempdir = Some(absolute_path(&value)?);
    }
    config.spool = spool(&mut top)?;
    if let Some(value) = top.optional("replication_targets") {
        targets::read(&value, &mut config)?;
    }
    if let Some(value) = top.optional("replicate") {
        config.replicate = replicate(&value)?;
    }
    if let Some(value) = top.optional("journal_wal") {
        config.journal_wal = value.one_of(&[
            ("refuse", JournalWal::Refuse),
            ("unreplicated", JournalWal::Unreplicated),
        ])?;
    }
    if let Some(value) = top.optional("hostname") {
        config.hostname = Some(host_name(&value)?);
    }
    if let Some(value) = top.optional("copier") {
        config.copier = copier(&value)?;
    }
    if config.spool.is_some() && config.targets.is_empty() {
        return Err(top.bad_key(
            "replication_spooling_dir",
            "nothing would leave the spool: replication_targets has no \"s3\" or \"directory\" entry",
            "add one, or remove this key",
        ));
    }
    top.finish(PLANNED_TOP)?;
    Ok(config)
}

fn spool(top: &mut Object<'_, '_>) -> Result<Option<SpoolConfig>> {
    let dir = top.optional("replication_spooling_dir");
    let mode = top.optional("replication_spooling_dir_permissions");
    let permissions = match &mode {
        Some(value) => spool_permissions(value)?,
        None => 0o700,
    };
    match (dir, mode) {
        (Some(value), _) => Ok(Some(SpoolConfig {
            dir: absolute_path(&value)?,
            permissions,
        })),
        (None, Some(mode)) => Err(mode.bad(
            "there is no replication_spooling_dir that it could apply to",
            "add that key, or remove this one",
        )),
        (None, None) => Ok(None),
    }
}

/// 0.6 took the mode as a JSON number, which is decimal: 448 is 0700. A string is octal.
fn spool_permissions(value: &Value<'_, '_>) -> Result<u32> {
    let mode = match value.as_string() {
        Some(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(|| {
                value.bad(
                    format!("{text:?} is not a mode"),
                    "give octal digits, as in \"0700\"",
                )
            })?,
        None => value.integer(0, 0o777)? as u32,
    };
    Ok(mode | 0o700)
}

fn copier(value: &Value<'_, '_>) -> Result<CopierConfig> {
    let mut object = value.object()?;
    let mut config = CopierConfig::default();
    if let Some(value) = object.optional("requests_per_second") {
        config.requests_per_second = value.number(0.001, 1_000_000.0)?;
    }
    if let Some(value) = object.optional("burst") {
        config.burst = value.integer(1, 1_000_000)? as u32;
    }
    if let Some(value) = object.optional("min_manifest_interval_ms") {
        config.min_manifest_interval_ms = value.integer(0, DURATION_MAX_MS)?;
    }
    if let Some(value) = object.optional("mode") {
        config.mode = value.one_of(&[
            ("in_process", CopierMode::InProcess),
            ("external", CopierMode::External),
            ("off", CopierMode::Off),
        ])?;
    }
    if let Some(value) = object.optional("drain_on_close_ms") {
        config.drain_on_close_ms = value.integer(0, DRAIN_MAX_MS)?;
    }
    object.finish(&[])?;
    Ok(config)
}

fn replicate(value: &Value<'_, '_>) -> Result<ReplicateConfig> {
    let mut object = value.object()?;
    let mut config = ReplicateConfig::default();
    if let Some(value) = object.optional("include") {
        config.include = globs(&value)?;
    }
    if let Some(value) = object.optional("exclude") {
        config.exclude = globs(&value)?;
    }
    object.finish(&[])?;
    Ok(config)
}

fn globs(list: &Value<'_, '_>) -> Result<Globs> {
    let mut patterns = Vec::new();
    for value in list.elements()? {
        if patterns.len() == GLOBS_MAX {
            return Err(value.bad(
                format!("there are more than {GLOBS_MAX} globs"),
                "name directories instead, as in \"/srv/app/**\"",
            ));
        }
        let pattern = glob(&value)?;
        // Each alone first, so that the error can point at the one that is bad.
        Globs::new(std::slice::from_ref(&pattern)).map_err(|cause| {
            value.bad(
                format!("{pattern:?} is not a glob: {cause}"),
                "correct it; a '\\\\' before a character takes that character as it stands",
            )
        })?;
        patterns.push(pattern);
    }
    Globs::new(&patterns).map_err(|cause| {
        list.bad(
            format!("together the globs are refused: {cause}"),
            "use fewer",
        )
    })
}

/// Paths of databases are absolute and canonical; a glob that could never match one leaves
/// databases unreplicated without a word, or replicates what was meant to stay at home.
fn glob(value: &Value<'_, '_>) -> Result<String> {
    let pattern = value.string()?;
    if !pattern.starts_with('/') || pattern.contains('\0') {
        return Err(value.bad(
            format!("{pattern:?} is not a glob of absolute paths"),
            "give one that begins with '/', as in \"/srv/**/*.db\"",
        ));
    }
    if pattern.len() > GLOB_LEN_MAX_BYTES {
        return Err(value.bad(
            format!("the glob is longer than {GLOB_LEN_MAX_BYTES} bytes"),
            "shorten it, or make several of it",
        ));
    }
    if pattern[1..]
        .split('/')
        .any(|part| matches!(part, "" | "." | ".."))
    {
        return Err(value.bad(
            format!("{pattern:?} matches no path: an empty, \".\" or \"..\" part is in none"),
            "remove that part; all that is below a directory is \"/directory/**\"",
        ));
    }
    Ok(pattern.to_owned())
}

fn non_empty(value: &Value<'_, '_>) -> Result<String> {
    match value.string()? {
        "" => Err(value.bad("it is empty", "give a name, or remove the key")),
        text => Ok(text.to_owned()),
    }
}

fn absolute_path(value: &Value<'_, '_>) -> Result<PathBuf> {
    let text = value.string()?;
    // sqlite changes no directory, but its application may: a relative path would move with it.
    if !text.starts_with('/') || text.contains('\0') {
        return Err(value.bad(
            format!("{text:?} is not an absolute path"),
            "give one that begins with '/'",
        ));
    }
    Ok(PathBuf::from(text))
}

fn host_name(value: &Value<'_, '_>) -> Result<String> {
    let text = value.string()?;
    let is_printable = !text.chars().any(|c| c.is_control() || c == '/');
    if text.is_empty() || text.len() > HOSTNAME_LEN_MAX_BYTES || !is_printable {
        return Err(value.bad(
            format!("{text:?} cannot be a host name"),
            format!("give 1 to {HOSTNAME_LEN_MAX_BYTES} printable characters without '/'"),
        ));
    }
    Ok(text.to_owned())
}
