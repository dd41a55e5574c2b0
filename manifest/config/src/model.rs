//! The configuration as values, filled by `keys` and read by everybody; the targets are also
//! recorded (as JSON) beside each database in the spool, for `verneuilctl flush SPOOL`.

use crate::replicate::ReplicateConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Requests per second of work that somebody waits for: explicit `flush`, `restore`, readers.
pub const EXPLICIT_REQUESTS_PER_SECOND: f64 = 1_000.0;
/// Burst of work that somebody waits for: one second's worth.
pub const EXPLICIT_BURST: u32 = 1_000;
/// Size of a `local` cache whose configuration does not say.
pub const DEFAULT_CACHE_CAPACITY_BYTES: u64 = 1 << 30;

/// Everything that can be configured. The default replicates nothing.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Key `make_default`: register `verneuil` as the default VFS.
    pub make_default: bool,
    /// Key `tempdir`: directory of sqlite's temporary files.
    pub tempdir: Option<PathBuf>,
    /// Keys `replication_spooling_dir` and `replication_spooling_dir_permissions`.
    pub spool: Option<SpoolConfig>,
    /// The `s3` and `directory` entries of `replication_targets`, in order; no two keep
    /// their manifests in the same place.
    pub targets: Vec<TargetConfig>,
    /// The `local` and `read_only` entries of `replication_targets`, in order.
    pub caches: Vec<CacheConfig>,
    /// Key `hostname`; see [`Config::host_name`].
    pub hostname: Option<String>,
    /// Key `replicate`: which databases are replicated.
    pub replicate: ReplicateConfig,
    /// Key `journal_wal`.
    pub journal_wal: JournalWal,
    /// Key `copier`.
    pub copier: CopierConfig,
}

/// Where commits wait between the disk and the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Root of the spool; absolute.
    pub dir: PathBuf,
    /// Mode with which the root is created; always includes 0700, which is also the default.
    /// What is inside is private to the owner, whatever this says.
    pub permissions: u32,
}

/// A store: where packs and manifests are written to and read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetConfig {
    /// S3, or a store with its protocol.
    S3(S3Config),
    /// A directory: a local disk, or a network file system.
    Directory(DirectoryConfig),
}

/// An S3 store. Credentials never stand here: the SDK's default chain finds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Region; any name when `endpoint` is given.
    pub region: String,
    /// URL of a compatible store; `None` is AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Bucket of packs.
    pub chunk_bucket: String,
    /// Bucket of manifests.
    pub manifest_bucket: String,
    /// `true`: the bucket stands in the host name (virtual-hosted style); else in the path.
    #[serde(default)]
    pub domain_addressing: bool,
    /// Create a bucket that does not exist when it is first written to.
    #[serde(default)]
    pub create_buckets_on_demand: bool,
    /// Comes before every key; empty, or ends with `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Profile of the shared AWS configuration files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Limit for one attempt of one request, body included.
    #[serde(default = "S3Config::default_request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// Attempts per request, the first included.
    #[serde(default = "S3Config::default_max_attempts")]
    pub max_attempts: u32,
}

impl S3Config {
    /// A store in `region` with default settings: AWS, path style, no bucket creation.
    pub fn new(region: &str, chunk_bucket: &str, manifest_bucket: &str) -> Self {
        Self {
            region: region.to_owned(),
            endpoint: None,
            chunk_bucket: chunk_bucket.to_owned(),
            manifest_bucket: manifest_bucket.to_owned(),
            domain_addressing: false,
            create_buckets_on_demand: false,
            prefix: String::new(),
            profile: None,
            request_timeout_ms: Self::default_request_timeout_ms(),
            max_attempts: Self::default_max_attempts(),
        }
    }

    /// 30 s: a pack of 4 MiB passes at 140 KB/s.
    pub const fn default_request_timeout_ms() -> u64 {
        30_000
    }

    /// 6: with full jitter up to 10 s, rides out a store that restarts.
    pub const fn default_max_attempts() -> u32 {
        6
    }
}

/// A directory as the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryConfig {
    /// Root; absolute. Created 0700 when it is first written to.
    pub path: PathBuf,
}

/// A cache of chunks on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheConfig {
    /// Ours to read, fill and trim.
    Local {
        /// Root; absolute.
        directory: PathBuf,
        /// Total size of the files in it. 0.6's `capacity` counts files; one is 64 KiB at most.
        capacity_bytes: u64,
    },
    /// Somebody else's, only read.
    ReadOnly {
        /// Root; absolute.
        directory: PathBuf,
    },
}

/// What `PRAGMA journal_mode=WAL` does on a database that is replicated: WAL is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JournalWal {
    /// `"refuse"`: the journal mode stays as it was, and the reason is logged.
    #[default]
    Refuse,
    /// `"unreplicated"`: the mode changes, and the database is shown as not replicated.
    Unreplicated,
}

/// Who carries the spool to the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CopierMode {
    /// `"in_process"`: threads of the application.
    #[default]
    InProcess,
    /// `"external"`: another process on this host; the application needs no credentials.
    External,
    /// `"off"`: nobody, until `verneuilctl flush` does.
    Off,
}

/// Where the copier runs and how it spends requests. Limits hold per target and process.
#[derive(Debug, Clone, PartialEq)]
pub struct CopierConfig {
    /// Sustained requests per second of background uploads.
    pub requests_per_second: f64,
    /// Requests that may go out at once after a pause.
    pub burst: u32,
    /// Shortest time between two manifests of one database; a commit after a longer pause goes out
    /// at once.
    pub min_manifest_interval_ms: u64,
    /// Who does the work.
    pub mode: CopierMode,
    /// How long a process that ends in good order waits at most for what is pending; 0: not at all.
    pub drain_on_close_ms: u64,
}

impl Default for CopierConfig {
    fn default() -> Self {
        Self {
            requests_per_second: 30.0,
            burst: 100,
            min_manifest_interval_ms: 1_000,
            mode: CopierMode::InProcess,
            drain_on_close_ms: 1_000,
        }
    }
}
