//! A source host in a temporary folder: a database's place, a spool, a store and the configuration that joins them. The
//! tests start here, and get their sessions, mounts and commands from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fault::Proxy;
use crate::mount::Mount;
use crate::paths;
use crate::process::{self, COMMAND_LIMIT, Finished};
use crate::seaweed::Seaweed;
use crate::session::{Opening, Program, Session};

/// The source host's name in every test.
pub const HOST: &str = "source.test";

/// Where replicas are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory of this machine.
    Directory,
    /// A SeaweedFS of the test's own, behind a line that can be cut.
    S3,
}

/// A store that runs.
#[derive(Debug)]
pub enum Target {
    /// A directory store and its root.
    Directory(PathBuf),
    /// An S3 server, reached through the proxy.
    S3 {
        /// The server.
        server: Box<Seaweed>,
        /// The line to it.
        proxy: Proxy,
    },
    /// Stores that the test looks after itself.
    Given {
        /// Their entries in `replication_targets`.
        targets: Vec<Value>,
        /// The environment that they need.
        credentials: Vec<(String, String)>,
    },
}

/// What the copier may do; the tests are in more of a hurry than its defaults.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Shortest time between two manifests of one database.
    pub min_manifest_interval_ms: u64,
    /// Requests per second, and how many may come at once.
    pub requests_per_second: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            min_manifest_interval_ms: 20,
            requests_per_second: 1_000,
        }
    }
}

/// A source host with its store.
#[derive(Debug)]
pub struct Setup {
    /// Dropped (and removed) after the server that lives in it.
    target: Target,
    root: PathBuf,
    pace: Pace,
    _dir: TempDir,
}

impl Setup {
    /// A new source host whose store is of this kind.
    ///
    /// # Errors
    /// When the server does not start.
    pub fn new(kind: Kind) -> Result<Self> {
        Self::with_pace(kind, Pace::default())
    }

    /// As [`Setup::new`], with another pace.
    ///
    /// # Errors
    /// As [`Setup::new`].
    pub fn with_pace(kind: Kind, pace: Pace) -> Result<Self> {
        Self::make(pace, |root| match kind {
            Kind::Directory => {
                let store = root.join("store");
                std::fs::create_dir(&store)?;
                Ok(Target::Directory(store))
            }
            Kind::S3 => {
                let server = Box::new(Seaweed::start()?);
                let proxy = Proxy::start(server.address())?;
                Ok(Target::S3 { server, proxy })
            }
        })
    }

    /// A new source host with these entries of `replication_targets`, and the environment that their stores need.
    ///
    /// # Errors
    /// When there is no temporary folder.
    pub fn beside(
        targets: Vec<Value>,
        credentials: Vec<(String, String)>,
        pace: Pace,
    ) -> Result<Self> {
        Self::make(pace, |_| {
            Ok(Target::Given {
                targets,
                credentials,
            })
        })
    }

    fn make(pace: Pace, target: impl FnOnce(&Path) -> Result<Target>) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("verneuil-test-")
            .tempdir()?;
        // Databases are known by their canonical path.
        let root = dir.path().canonicalize()?;
        let target = target(&root)?;
        std::fs::create_dir(root.join("source"))?;
        Ok(Self {
            target,
            root,
            pace,
            _dir: dir,
        })
    }

    /// The store.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// A path in the temporary folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The database that most tests write.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path("source/main.db")
    }

    /// The spool's folder.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.path("spool")
    }

    /// Key of a database's manifest.
    #[must_use]
    pub fn manifest_key(&self, database: &Path) -> String {
        verneuil_format::manifest_key(HOST, database.as_os_str().as_encoded_bytes())
    }

    /// File of a database's manifest in a directory store.
    ///
    /// # Errors
    /// When the store is another one.
    pub fn manifest_file(&self, database: &Path) -> Result<PathBuf> {
        match &self.target {
            Target::Directory(root) => Ok(root.join(self.manifest_key(database))),
            Target::S3 { .. } | Target::Given { .. } => {
                anyhow::bail!("an S3 store has no files")
            }
        }
    }

    /// The `replication_targets` entry of this store (the first one).
    #[must_use]
    pub fn target_json(&self) -> Value {
        self.targets_json().swap_remove(0)
    }

    fn targets_json(&self) -> Vec<Value> {
        match &self.target {
            Target::Directory(root) => vec![json!({"directory": {"path": root}})],
            Target::S3 { proxy, .. } => vec![json!({"s3": {
                "region": "us-east-1",
                "endpoint": format!("http://{}", proxy.address()),
                "chunk_bucket": "verneuil-chunks",
                "manifest_bucket": "verneuil-manifests",
                "domain_addressing": false,
                "create_buckets_on_demand": true,
                // A store that is away is found out soon.
                "request_timeout_ms": 5_000,
                "max_attempts": 3,
            }})],
            Target::Given { targets, .. } => targets.clone(),
        }
    }

    /// The whole configuration, as `VERNEUIL_CONFIG` takes it.
    #[must_use]
    pub fn config(&self) -> Value {
        json!({
            "replication_spooling_dir": self.spool(),
            "replication_targets": self.targets_json(),
            "hostname": HOST,
            "copier": {
                "requests_per_second": self.pace.requests_per_second,
                "burst": self.pace.requests_per_second,
                "min_manifest_interval_ms": self.pace.min_manifest_interval_ms,
            },
        })
    }

    /// The environment of every program that replicates or reads.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        self.env_with(&self.config())
    }

    /// The environment of a program with another configuration than this setup's.
    #[must_use]
    pub fn env_with(&self, config: &Value) -> Vec<(String, String)> {
        let mut env = self.credentials();
        env.push(("VERNEUIL_CONFIG".to_owned(), config.to_string()));
        env
    }

    /// The environment's part that no configuration may hold.
    #[must_use]
    pub fn credentials(&self) -> Vec<(String, String)> {
        match &self.target {
            Target::Directory(_) => Vec::new(),
            Target::S3 { server, .. } => server.credentials(),
            Target::Given { credentials, .. } => credentials.clone(),
        }
    }

    /// The URI under which a database is written.
    #[must_use]
    pub fn uri(&self, database: &Path) -> String {
        format!("file:{}?vfs=verneuil", database.display())
    }

    /// A session that writes [`Setup::database`] through the extension.
    ///
    /// # Errors
    /// When the program can't load the extension or open the database.
    pub fn writer(&self, program: Program) -> Result<Session> {
        self.session(program, &self.uri(&self.database()))
    }

    /// A session with the extension loaded.
    ///
    /// # Errors
    /// As [`Setup::writer`].
    pub fn session(&self, program: Program, uri: &str) -> Result<Session> {
        Session::open(
            program,
            &Opening {
                uri,
                load: true,
                env: &self.env(),
            },
        )
    }

    /// Runs `verneuilctl` with this configuration.
    ///
    /// # Errors
    /// When it can't be started or hangs; not when it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Finished> {
        self.ctl_with(&self.config(), arguments)
    }

    /// Runs `verneuilctl` with another configuration.
    ///
    /// # Errors
    /// As [`Setup::ctl`].
    pub fn ctl_with(&self, config: &Value, arguments: &[&str]) -> Result<Finished> {
        let mut command = process::tied(paths::verneuilctl()?);
        command.args(arguments).envs(self.env_with(config));
        process::run(&mut command, COMMAND_LIMIT)
    }

    /// Uploads all that is pending in the spool.
    ///
    /// # Errors
    /// With the tool's own words when it could not.
    pub fn flush(&self) -> Result<()> {
        let spool = self.spool();
        self.ctl(&["flush", utf8(&spool)?])?
            .ok()
            .context("verneuilctl flush")?;
        Ok(())
    }

    /// Restores the newest version of a database to `out`.
    ///
    /// # Errors
    /// With the tool's own words when it could not.
    pub fn restore(&self, database: &Path, out: &Path) -> Result<()> {
        let arguments = [
            "restore",
            "-s",
            utf8(database)?,
            "--hostname",
            HOST,
            "-o",
            utf8(out)?,
        ];
        self.ctl(&arguments)?.ok().context("verneuilctl restore")?;
        Ok(())
    }

    /// Restores the version that a manifest in a file describes.
    ///
    /// # Errors
    /// With the tool's own words when it could not.
    pub fn restore_manifest(&self, manifest: &Path, out: &Path) -> Result<()> {
        self.ctl(&["restore", "-m", utf8(manifest)?, "-o", utf8(out)?])?
            .ok()
            .with_context(|| format!("verneuilctl restore -m {}", manifest.display()))?;
        Ok(())
    }

    /// Restores the newest version and compares it with the source, byte for byte.
    ///
    /// # Errors
    /// When they differ.
    pub fn restored_equals_source(&self) -> Result<()> {
        let out = self.path("restored.db");
        self.restore(&self.database(), &out)?;
        crate::state::same_bytes(&self.database(), &out)?;
        ensure!(
            std::fs::metadata(&out)?.len() > 0,
            "an empty restore proves nothing"
        );
        Ok(())
    }

    /// Mounts the store.
    ///
    /// # Errors
    /// When the mount does not come up.
    pub fn mount(&self, refresh: Duration) -> Result<Mount> {
        let arguments = [
            "--refresh-interval".to_owned(),
            format!("{}ms", refresh.as_millis()),
        ];
        Mount::start(&self.path("mnt"), &arguments, &self.env())
    }

    /// A session that reads the mounted replica of [`Setup::database`], without the extension.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn reader(&self, program: Program, mount: &Mount) -> Result<Session> {
        Session::open(
            program,
            &Opening {
                uri: &mount.uri(&self.database()),
                load: false,
                env: &[],
            },
        )
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
