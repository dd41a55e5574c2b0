//! What a command needs to talk to a store: configuration, runtime, client, and the key of a database. `commands`
//! open one each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use verneuil_config::{CONFIG_VARIABLE, Config, EXPLICIT_BURST, EXPLICIT_REQUESTS_PER_SECOND};
use verneuil_replica::{Client, ClientConfig};
use verneuil_store::{Pacer, Store};

use crate::cli::{Common, Host};
use crate::failure::Failure;
use crate::paths;

/// The configuration that `-c` gives, else `VERNEUIL_CONFIG`.
pub fn config(common: &Common) -> Result<Config, Failure> {
    Ok(match &common.config {
        Some(text) => Config::parse(text, "--config")?,
        None => Config::from_env()?,
    })
}

/// One database: whose it is, and where its manifest is.
#[derive(Debug)]
pub struct Database {
    pub host: String,
    pub path: Vec<u8>,
    pub key: String,
}

impl Database {
    /// The database at `path` on the host that was named, with the path as the source would have it.
    pub fn find(config: &Config, host: &Host, path: &Path) -> Result<Self, Failure> {
        if path.as_os_str().is_empty() {
            return Err(Failure::Usage(
                "the path of the database is empty".to_owned(),
            ));
        }
        let host = match &host.hostname {
            Some(host) if host.is_empty() => {
                return Err(Failure::Usage("--hostname is empty".to_owned()));
            }
            Some(host) => host.clone(),
            None => config.host_name()?,
        };
        // Symbolic links of this machine say nothing about another one.
        let is_here = config.host_name().is_ok_and(|here| here == host);
        let made_absolute = if is_here {
            paths::canonical(path)
        } else {
            paths::absolute(path)
        };
        let path = made_absolute.map_err(|error| {
            Failure::Failed(format!("cannot make {} absolute: {error}", path.display()))
        })?;
        let key = verneuil_format::manifest_key(&host, &path);
        Ok(Self { host, path, key })
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, String::from_utf8_lossy(&self.path))
    }

    /// The failure of not finding it.
    pub fn missing(&self) -> Failure {
        Failure::Failed(format!(
            "{} is not in the store ({}); see what is with: verneuilctl ls",
            self.name(),
            self.key
        ))
    }
}

/// A runtime for one command.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::Failed(format!(
                "cannot start threads: {error}; check the limits of this user"
            ))
        })
}

/// Opens the configured stores. Inside of [`runtime`].
pub async fn client(config: &Config) -> Result<Client, Failure> {
    if config.targets.is_empty() {
        return Err(Failure::Failed(format!(
            "no store is configured; give --config or {CONFIG_VARIABLE} with \"replication_targets\", for example \
             {{\"replication_targets\": [{{\"directory\": {{\"path\": \"/srv/replicas\"}}}}]}}"
        )));
    }
    // Somebody waits for what this program does: the limit is the explicit one.
    let pacer = Arc::new(Pacer::new(EXPLICIT_REQUESTS_PER_SECOND, EXPLICIT_BURST));
    let mut stores = Vec::new();
    for target in &config.targets {
        stores.push(Store::open(target, Arc::clone(&pacer)).await?);
    }
    // Nothing is read twice here: the cache directories are left to the mount.
    Ok(Client::open(stores, ClientConfig::default())?)
}

/// Where `-o` points: `None` is standard output.
pub fn out_file(out: Option<&PathBuf>) -> Option<&Path> {
    out.map(PathBuf::as_path)
        .filter(|path| *path != Path::new("-"))
}
