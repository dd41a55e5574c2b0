//! The configuration that the extension, `verneuilctl` and `verneuil-fs` share: read from
//! `VERNEUIL_CONFIG` or `--config`, handed to `verneuil-store`, the spool and the caches.
//!
//! The text is JSON with `//` and `/* */` comments and trailing commas, or `@` and the path of a
//! file that holds such text. Everything that is not understood is an error that names the key,
//! its position and the remedy: a misspelt key that silently left databases unreplicated would be
//! found out on the day the replica is needed.
//!
//! - `model`: the types, and their defaults;
//! - `replicate`: which databases the globs cover;
//! - `keys`: which keys exist and what their values must be;
//! - `reader`: positions, types and unknown keys over the syntax tree;
//! - `error`: what a user is told.
#![forbid(unsafe_code)]

mod error;
mod keys;
mod model;
mod reader;
mod replicate;

pub use error::{ConfigError, Position};
pub use model::{
    CacheConfig, Config, CopierConfig, CopierMode, DEFAULT_CACHE_CAPACITY_BYTES, DirectoryConfig,
    EXPLICIT_BURST, EXPLICIT_REQUESTS_PER_SECOND, JournalWal, S3Config, SpoolConfig, TargetConfig,
};
pub use replicate::ReplicateConfig;

use std::io::Read;
use std::path::Path;

/// The environment variable that [`Config::from_env`] reads.
pub const CONFIG_VARIABLE: &str = "VERNEUIL_CONFIG";

/// A configuration is a screenful; a file beyond this is something else named by mistake.
const CONFIG_LEN_MAX_BYTES: u64 = 1 << 20;

impl Config {
    /// Reads the configuration from the environment variable `VERNEUIL_CONFIG`.
    ///
    /// An unset, empty or blank variable is the default configuration: no replication.
    ///
    /// # Errors
    /// See [`Config::parse`]; also when the variable is not UTF-8.
    pub fn from_env() -> Result<Self, ConfigError> {
        match std::env::var(CONFIG_VARIABLE) {
            Ok(text) => Self::parse(&text, CONFIG_VARIABLE),
            Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Err(std::env::VarError::NotUnicode(_)) => Err(ConfigError::NotUtf8 {
                origin: CONFIG_VARIABLE.to_owned(),
            }),
        }
    }

    /// Reads a configuration from `text`: JSON with comments and trailing commas, or `@PATH` for
    /// the file that holds it. `origin` is what errors call the text ("VERNEUIL_CONFIG", "--config").
    ///
    /// Blank text is the default configuration; a blank *file* is an error, since somebody named it.
    ///
    /// # Errors
    /// A file that cannot be read, bad syntax, a key that is unknown, repeated, missing or has a bad
    /// value. Nothing is changed anywhere, and nothing has been defaulted.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let text = text.trim_start_matches('\u{feff}');
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(Self::default());
        }
        match trimmed.strip_prefix('@') {
            Some(path) => Self::parse_file(Path::new(path), origin),
            None => keys::read_config(text, origin),
        }
    }

    /// Reads a configuration from the file at `path`, which `origin` had named.
    ///
    /// # Errors
    /// See [`Config::parse`].
    pub fn parse_file(path: &Path, origin: &str) -> Result<Self, ConfigError> {
        let cannot_read = |source| ConfigError::File {
            origin: origin.to_owned(),
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| {
                file.take(CONFIG_LEN_MAX_BYTES + 1)
                    .read_to_end(&mut bytes)
                    .map(drop)
            })
            .map_err(cannot_read)?;
        let file_origin = path.display().to_string();
        if bytes.len() as u64 > CONFIG_LEN_MAX_BYTES {
            return Err(ConfigError::TooLong {
                origin: file_origin,
                len_max_bytes: CONFIG_LEN_MAX_BYTES,
            });
        }
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotUtf8 {
            origin: file_origin.clone(),
        })?;
        keys::read_config(text.trim_start_matches('\u{feff}'), &file_origin)
    }

    /// The name under which this host's databases are stored: the key `hostname`, else the machine's.
    ///
    /// # Errors
    /// The machine has no usable name and the configuration gives none.
    pub fn host_name(&self) -> Result<String, ConfigError> {
        if let Some(name) = &self.hostname {
            return Ok(name.clone());
        }
        let machine = nix::unistd::gethostname().map_err(|errno| ConfigError::Hostname {
            cause: errno.desc().to_owned(),
        })?;
        match machine.into_string() {
            Ok(name) if !name.is_empty() => Ok(name),
            Ok(_) => Err(ConfigError::Hostname {
                cause: "it is empty".to_owned(),
            }),
            Err(_) => Err(ConfigError::Hostname {
                cause: "it is not UTF-8".to_owned(),
            }),
        }
    }
}
