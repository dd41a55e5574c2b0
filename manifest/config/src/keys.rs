//! Which keys a configuration has and what their values must be, read through `reader` into the
//! types of `model`.

use crate::model::*;
use crate::reader::{Object, Result, Source, Value};
use std::path::PathBuf;

/// Keys of the design that exist in later versions; named so that the error can say so.
const PLANNED_TOP: &[&str] = &[
    "snapshot_loading_policy",
    "replicate",
    "journal_wal",
    "retention",
    "budget",
    "metrics",
];
const PLANNED_S3: &[&str] = &["storage_class", "sse", "kms_key_id", "ca_bundle"];
const PLANNED_COPIER: &[&str] = &["mode", "drain_on_close_ms"];

/// A day: no limit that is meant as a time should be longer, and sums of them stay far from
/// overflow.
const DURATION_MAX_MS: u64 = 86_400_000;
/// S3's keys have at most 1,024 bytes, and `verneuil-format` keeps ours to 900 of them.
const PREFIX_LEN_MAX_BYTES: usize = 124;
/// Length of a host name in POSIX.
const HOSTNAME_LEN_MAX_BYTES: usize = 255;
/// 0.6 counted a cache's files; a file held at most one 64 KiB chunk.
const CACHED_CHUNK_LEN_BYTES: u64 = 65_536;

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
        targets(&value, &mut config)?;
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

fn targets(list: &Value<'_, '_>, config: &mut Config) -> Result<()> {
    const KINDS: &str = "\"s3\", \"directory\", \"local\", \"read_only\"";
    for entry in list.elements()? {
        let mut entry_object = entry.object()?;
        let target = match entry_object.only_key(KINDS)? {
            "s3" => TargetConfig::S3(s3(&entry_object.required("s3")?)?),
            "directory" => {
                let mut object = entry_object.required("directory")?.object()?;
                let path = absolute_path(&object.required("path")?)?;
                object.finish(&[])?;
                TargetConfig::Directory(DirectoryConfig { path })
            }
            "local" => {
                config.caches.push(local(&entry_object.required("local")?)?);
                continue;
            }
            "read_only" => {
                let value = entry_object.required("read_only")?;
                config.caches.push(read_only(&value)?);
                continue;
            }
            other => {
                return Err(entry_object.bad_key(
                    other,
                    "there is no such kind of target",
                    format!("give one of {KINDS}"),
                ));
            }
        };
        if !config.targets.is_empty() {
            return Err(entry.bad(
                "a second \"s3\" or \"directory\" target is not supported yet",
                "keep one",
            ));
        }
        config.targets.push(target);
    }
    Ok(())
}

fn s3(value: &Value<'_, '_>) -> Result<S3Config> {
    let mut object = value.object()?;
    let region_value = object.required("region")?;
    let region = region_value.string()?;
    let endpoint = match object.optional("endpoint") {
        Some(value) => Some(endpoint(&value)?),
        None => None,
    };
    if endpoint.is_none() && !is_aws_region(region) {
        return Err(region_value.bad(
            format!("{region:?} is not the name of an AWS region"),
            "give one, as in \"eu-central-1\", or add \"endpoint\", the URL of a compatible store",
        ));
    }
    if region.is_empty() || !region.bytes().all(is_name_byte) {
        return Err(region_value.bad(
            format!("{region:?} cannot be a region"),
            "use letters, digits, '-', '_' and '.'; \"us-east-1\" if the store has no regions",
        ));
    }
    let chunk_bucket = bucket(&object.required("chunk_bucket")?)?;
    let manifest_bucket = bucket(&object.required("manifest_bucket")?)?;
    let mut config = S3Config::new(region, &chunk_bucket, &manifest_bucket);
    config.endpoint = endpoint;
    if let Some(value) = object.optional("domain_addressing") {
        config.domain_addressing = value.boolean()?;
    }
    if let Some(value) = object.optional("create_buckets_on_demand") {
        config.create_buckets_on_demand = value.boolean()?;
    }
    if let Some(value) = object.optional("prefix") {
        config.prefix = prefix(&value)?;
    }
    if let Some(value) = object.optional("profile") {
        config.profile = Some(non_empty(&value)?);
    }
    if let Some(value) = object.optional("request_timeout_ms") {
        config.request_timeout_ms = value.integer(1, DURATION_MAX_MS)?;
    }
    if let Some(value) = object.optional("max_attempts") {
        config.max_attempts = value.integer(1, 100)? as u32;
    }
    object.finish(PLANNED_S3)?;
    Ok(config)
}

fn local(value: &Value<'_, '_>) -> Result<CacheConfig> {
    let mut object = value.object()?;
    let directory = absolute_path(&object.required("directory")?)?;
    num_shards(&mut object)?;
    let files = object.optional("capacity");
    let bytes = object.optional("capacity_bytes");
    let capacity_bytes = match (files, bytes) {
        (Some(files), Some(_)) => {
            return Err(files.bad(
                "capacity (files) and capacity_bytes both limit this cache",
                "keep one of them",
            ));
        }
        (Some(files), None) => files.integer(1, u64::from(u32::MAX))? * CACHED_CHUNK_LEN_BYTES,
        (None, Some(bytes)) => bytes.integer(1, 1 << 50)?,
        (None, None) => DEFAULT_CACHE_CAPACITY_BYTES,
    };
    object.finish(&[])?;
    Ok(CacheConfig::Local {
        directory,
        capacity_bytes,
    })
}

fn read_only(value: &Value<'_, '_>) -> Result<CacheConfig> {
    let mut object = value.object()?;
    let directory = absolute_path(&object.required("directory")?)?;
    num_shards(&mut object)?;
    object.finish(&[])?;
    Ok(CacheConfig::ReadOnly { directory })
}

/// Of 0.6's caches; ours are laid out otherwise, so the number is checked and has no effect.
fn num_shards(object: &mut Object<'_, '_>) -> Result<()> {
    match object.optional("num_shards") {
        Some(value) => value.integer(1, 1 << 20).map(drop),
        None => Ok(()),
    }
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
    object.finish(PLANNED_COPIER)?;
    Ok(config)
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

fn endpoint(value: &Value<'_, '_>) -> Result<String> {
    let url = value.string()?;
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    // The text of a URL with a password must not come back in the error.
    if url.contains('@') {
        return Err(value.bad(
            "an endpoint has no user or password",
            "remove them: credentials come from the AWS environment or profile",
        ));
    }
    let is_good = authority.is_some_and(is_authority)
        && !url.contains(|c: char| c.is_whitespace() || c.is_control() || "?#\\\"".contains(c));
    if !is_good {
        return Err(value.bad(
            format!("{url:?} is not the URL of a store"),
            "give one as in \"https://storage.example.com\" or \"http://127.0.0.1:9000\"",
        ));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// A host, or an address in brackets, and perhaps a port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_host_good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name_byte),
    };
    is_port_good && is_host_good
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// AWS names regions as in `us-east-1`, `us-gov-west-1`, `cn-north-1`.
fn is_aws_region(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let Some((number, words)) = parts.split_last() else {
        return false;
    };
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    words.len() >= 2 && words.iter().all(is_word) && is_number
}

/// Looser than today's rules for new buckets: old ones, and those of other stores, have underscores.
fn bucket(value: &Value<'_, '_>) -> Result<String> {
    let name = value.string()?;
    let is_good = (3..=63).contains(&name.len())
        && name.bytes().all(is_name_byte)
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && !name.contains("..");
    if !is_good {
        return Err(value.bad(
            format!("{name:?} cannot be a bucket"),
            "give 3 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit",
        ));
    }
    Ok(name.to_owned())
}

/// Normalised to the empty string or to segments that each end with `/`.
fn prefix(value: &Value<'_, '_>) -> Result<String> {
    let text = value.string()?;
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    if trimmed.is_empty() && text.is_empty() {
        return Ok(String::new());
    }
    let is_segment = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment.bytes().all(is_name_byte)
    };
    if trimmed.len() >= PREFIX_LEN_MAX_BYTES || !trimmed.split('/').all(is_segment) {
        return Err(value.bad(
            format!("{text:?} cannot be a prefix"),
            format!(
                "give up to {PREFIX_LEN_MAX_BYTES} bytes of letters, digits, '-', '_' and '.', \
                 with '/' between names, as in \"backups/verneuil\""
            ),
        ));
    }
    Ok(format!("{trimmed}/"))
}
