//! From the configuration ([`configure`], else `VERNEUIL_CONFIG`) to registered VFSes; called by the entry points.

use crate::{logging, replication, residence};
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;
use verneuil_abi::Api;
use verneuil_config::Config;
use verneuil_spool::Spool;
use verneuil_tracking::{ReplicationSetup, TrackingVfs};
use verneuil_unix::{UnixOptions, UnixVfs};

/// What a program that links this crate has configured.
static CONFIGURED: OnceLock<Config> = OnceLock::new();

/// Puts a configuration in the place of `VERNEUIL_CONFIG`, for the SQLite libraries that register the VFSes after this;
/// for programs that link this crate.
///
/// # Errors
/// When this was called before: the first configuration stays.
pub fn configure(config: Config) -> Result<(), AlreadyConfigured> {
    CONFIGURED.set(config).map_err(|_| AlreadyConfigured)
}

/// The answer of [`configure`] to its second call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlreadyConfigured;

impl fmt::Display for AlreadyConfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this process has configured Verneuil already; configure it once, before the first connection")
    }
}

impl std::error::Error for AlreadyConfigured {}

/// The configuration that holds in this process.
fn config() -> Result<Config, String> {
    match CONFIGURED.get() {
        Some(config) => Ok(config.clone()),
        None => Config::from_env().map_err(|error| error.to_string()),
    }
}

/// Registers both VFSes with a library, unless that happened before.
///
/// # Errors
/// What is wrong with the configuration, or who has the names; nothing new is the library's default then.
pub(crate) fn register(api: Api) -> Result<(), String> {
    if verneuil_abi::is_registered::<TrackingVfs>(api, c"verneuil") {
        return Ok(());
    }
    let config = config()?;
    residence::keep_loaded(api.address());
    logging::start(api);

    let options = UnixOptions {
        temp_dir: config.tempdir.clone(),
        ..UnixOptions::default()
    };
    let setup = replication_of(&config)?;
    let registered = verneuil_abi::register(api, c"linux", false, {
        let options = options.clone();
        || UnixVfs::new(UnixVfs::NAME, options)
    })
    .and_then(|_| {
        verneuil_abi::register(api, c"verneuil", config.make_default, || {
            TrackingVfs::new(options, setup)
        })
    });
    registered.map(drop).map_err(|error| error.to_string())
}

/// What replication needs; none if the configuration doesn't ask for any.
///
/// # Errors
/// When this host has no name.
fn replication_of(config: &Config) -> Result<Option<ReplicationSetup>, String> {
    let Some(spool) = &config.spool else {
        return Ok(None);
    };
    if config.targets.is_empty() {
        return Ok(None);
    }
    let hostname = config.host_name().map_err(|error| error.to_string())?;
    Ok(Some(ReplicationSetup {
        spool: Spool::new(spool),
        hostname,
        targets: config.targets.clone(),
        replicate: config.replicate.clone(),
        journal_wal: config.journal_wal,
        close_limit: Duration::from_millis(config.copier.drain_on_close_ms),
        replication: replication::of(config),
    }))
}
