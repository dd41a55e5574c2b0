//! A running `verneuil-fs` that is always undone: `setup.rs` starts it, the tests read through it with programs of their own
//! (never in the test process: a read from a broken mount may not return), `watchdog.rs` undoes what a hung test left.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::process::{self, Finished};
use crate::{paths, setup};

/// How long a mount may take to appear or to go.
const MOUNT_LIMIT: Duration = Duration::from_secs(20);

/// Every mount point of this process, for the watchdog.
static MOUNTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A mounted replica.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    daemon: Child,
    log: NamedTempFile,
}

impl Mount {
    /// Starts the daemon in the foreground and waits until the mount answers.
    ///
    /// # Errors
    /// Without `/dev/fuse`, or with the daemon's own words when it ends or does not answer in time.
    pub fn start(point: &Path, arguments: &[String], env: &[(String, String)]) -> Result<Self> {
        paths::require_fuse()?;
        // A dead mount that is to be replaced is there, and can't be looked at.
        if !is_mounted(point) {
            std::fs::create_dir_all(point).with_context(|| format!("{}", point.display()))?;
        }
        let log = NamedTempFile::new()?;
        let mut command = process::tied_by("TERM", paths::mount_daemon()?);
        command.arg("-f").args(arguments).arg(point);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen()?);
        if let Ok(mut mounts) = MOUNTS.lock() {
            mounts.push(point.to_owned());
        }
        let daemon = command.spawn().context("could not start verneuil-fs")?;
        let mut mount = Self {
            point: point.to_owned(),
            daemon,
            log,
        };
        mount.wait_until_usable()?;
        Ok(mount)
    }

    fn wait_until_usable(&mut self) -> Result<()> {
        let limit = Instant::now() + MOUNT_LIMIT;
        // That something is mounted there is not enough: it may be the dead mount that this one replaces.
        while !is_mounted(&self.point) || !list(&self.point)?.status.success() {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("verneuil-fs ended with {status}: {}", self.log());
            }
            ensure!(
                Instant::now() < limit,
                "no usable mount after {MOUNT_LIMIT:?}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Where it is mounted.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Process id of the daemon.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Where a database of the tests' source host is found.
    #[must_use]
    pub fn replica(&self, database: &Path) -> PathBuf {
        let inside = database.strip_prefix("/").unwrap_or(database);
        self.point.join(setup::HOST).join(inside)
    }

    /// The URI of a database of the tests' source host.
    #[must_use]
    pub fn uri(&self, database: &Path) -> String {
        format!("file:{}?mode=ro", self.replica(database).display())
    }

    /// What the daemon has written to standard error.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = self.log.reopen() {
            // A log that can't be read is an empty one.
            let _ = file.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }

    /// Asks the daemon to end, as a service manager does, and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time, ends with a failure, or leaves the mount behind.
    pub fn terminate(mut self) -> Result<()> {
        signal(&self.daemon, Signal::SIGTERM)?;
        let status = process::wait(&mut self.daemon, MOUNT_LIMIT)?;
        if !status.success() {
            bail!(
                "verneuil-fs ended with {status} after SIGTERM: {}",
                self.log()
            );
        }
        if is_mounted(&self.point) {
            bail!("SIGTERM left the mount behind");
        }
        Ok(())
    }

    /// Kills the daemon with no chance to unmount; the dead mount stays.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn kill(&mut self) -> Result<()> {
        signal(&self.daemon, Signal::SIGKILL)?;
        process::wait(&mut self.daemon, MOUNT_LIMIT)?;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Each of these may find that there is nothing left to do.
        let _ = signal(&self.daemon, Signal::SIGTERM);
        if process::wait(&mut self.daemon, Duration::from_secs(5)).is_err() {
            process::kill(&mut self.daemon);
        }
        unmount(&self.point);
        // Shown by the test runner only where the test fails.
        let log = self.log();
        if !log.is_empty() {
            eprintln!("log of the mount {}:\n{log}", self.point.display());
        }
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    kill(pid, signal).with_context(|| format!("{signal} to {pid}"))
}

/// Lists a folder of a mount, in another process and with a time limit.
///
/// # Errors
/// When it takes too long.
pub fn list(folder: &Path) -> Result<Finished> {
    process::run(process::tied("ls").arg("-1A").arg(folder), MOUNT_LIMIT)
}

/// Whether something is mounted at a path; looks at the kernel's table only, so it cannot hang.
#[must_use]
pub fn is_mounted(point: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = point.to_string_lossy();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&*point))
}

/// Undoes a mount lazily, whatever state its daemon is in.
pub fn unmount(point: &Path) {
    for _ in 0..4 {
        if !is_mounted(point) {
            return;
        }
        for command in [&["umount", "-l"][..], &["fusermount3", "-u", "-z"][..]] {
            // Only one of the two may be there or allowed.
            let _ = process::run(
                Command::new(command[0]).args(&command[1..]).arg(point),
                MOUNT_LIMIT,
            );
        }
    }
    eprintln!("{} could not be unmounted", point.display());
}

/// Undoes every mount that this process has made.
pub fn unmount_all() {
    if let Ok(mounts) = MOUNTS.lock() {
        for point in mounts.iter() {
            unmount(point);
        }
    }
}

/// A folder that is unmounted when this is dropped, for daemons that a test starts by itself.
#[derive(Debug)]
pub struct MountPoint(PathBuf);

impl MountPoint {
    /// Makes the folder.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn create(point: &Path) -> Result<Self> {
        std::fs::create_dir_all(point).with_context(|| format!("{}", point.display()))?;
        if let Ok(mut mounts) = MOUNTS.lock() {
            mounts.push(point.to_owned());
        }
        Ok(Self(point.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}
