//! The list `replication_targets`: stores, and the caches that 0.6 put among them; called by `keys`.

use super::{DURATION_MAX_MS, absolute_path, non_empty};
use crate::model::*;
use crate::reader::{Object, Result, Value};

/// Each target costs a base manifest in memory per database and a connection; beyond a few, the
/// stores' own replication is cheaper.
const TARGETS_MAX: usize = 8;
/// Keys of the design that exist in later versions.
const PLANNED_S3: &[&str] = &["storage_class", "sse", "kms_key_id", "ca_bundle"];
/// S3's keys have at most 1,024 bytes, and `verneuil-format` keeps ours to 900 of them.
const PREFIX_LEN_MAX_BYTES: usize = 124;
/// 0.6 counted a cache's files; a file held at most one 64 KiB chunk.
const CACHED_CHUNK_LEN_BYTES: u64 = 65_536;

/// Reads the list into `targets` and `caches` of `config`.
pub(super) fn read(list: &Value<'_, '_>, config: &mut Config) -> Result<()> {
    const KINDS: &str = "\"s3\", \"directory\", \"local\", \"read_only\"";
    let mut places = Vec::new();
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
        if let Some(at) = config
            .targets
            .iter()
            .position(|known| is_same_place(known, &target))
        {
            return Err(entry.bad(
                format!("the target at {} writes to the same place", places[at]),
                "remove one of the two, or give them different prefixes or buckets",
            ));
        }
        if config.targets.len() == TARGETS_MAX {
            return Err(entry.bad(
                format!("there are more than {TARGETS_MAX} \"s3\" and \"directory\" targets"),
                "remove some; let the stores replicate among themselves",
            ));
        }
        places.push(entry.place());
        config.targets.push(target);
    }
    Ok(())
}

/// Do two targets keep their manifests in the same place? Each would take the other for a foreign
/// writer. Whatever else differs (time limits, say) makes no second copy.
fn is_same_place(one: &TargetConfig, other: &TargetConfig) -> bool {
    match (one, other) {
        // Compared by components: "/a//b/" is "/a/b".
        (TargetConfig::Directory(one), TargetConfig::Directory(other)) => one.path == other.path,
        (TargetConfig::S3(one), TargetConfig::S3(other)) => {
            one.manifest_bucket == other.manifest_bucket
                && one.prefix == other.prefix
                && one.endpoint == other.endpoint
                // With an endpoint the region is just a word in the signature.
                && (one.endpoint.is_some() || one.region == other.region)
        }
        _ => false,
    }
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

fn endpoint(value: &Value<'_, '_>) -> Result<String> {
    let url = value.string()?;
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    // The text of a URL with a password or a token must not come back in the error.
    if url.contains(['@', '?', '#']) {
        return Err(value.bad(
            "an endpoint has no user, password or parameters",
            "remove them: credentials come from the AWS environment or profile",
        ));
    }
    let is_good = authority.is_some_and(is_authority)
        && !url.contains(|c: char| c.is_whitespace() || c.is_control() || "\\\"".contains(c));
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
