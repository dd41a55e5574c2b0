//! The life of `verneuil-fs` as a user sees it, on an empty directory store. Needs /dev/fuse, and root or fusermount3.
// Helpers too: clippy knows only the bodies of tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A mountpoint and a store. Whatever is mounted there is gone when the test ends, however it ends.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        Self { dir }
    }

    fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let store = self.dir.path().join("store");
        let mut command = Command::new(env!("CARGO_BIN_EXE_verneuil-fs"));
        command
            .args(arguments)
            .env(
                "VERNEUIL_CONFIG",
                format!(r#"{{"replication_targets": [{{"directory": {{"path": {store:?}}}}}]}}"#),
            )
            .env_remove("RUST_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .arg(self.mountpoint())
            .output()
            .unwrap()
    }

    fn start_in_foreground(&self) -> Child {
        let mut command = self.command(&["-f"]);
        let child = command
            .arg(self.mountpoint())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("mounted", || self.is_mounted());
        child
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts
            .lines()
            .any(|line| line.split(' ').nth(4).map(Path::new) == Some(&self.mountpoint()))
    }

    /// The daemon in the background; it is no child of ours.
    fn daemon(&self) -> Pid {
        let mountpoint = self.mountpoint();
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let entry = entry.unwrap();
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            command
                .split(|byte| *byte == 0)
                .any(|word| word == mountpoint.as_os_str().as_encoded_bytes())
                .then_some(pid)
        });
        Pid::from_raw(pids.max().expect("a daemon"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Fails when nothing is mounted. Forced, so that whoever waits for an answer gets an error.
        let _ = nix::mount::umount2(&self.mountpoint(), nix::mount::MntFlags::MNT_FORCE);
        let _ = nix::mount::umount2(&self.mountpoint(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn error(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    )
}

#[test]
fn the_background_daemon_returns_when_the_mount_is_usable_and_sigterm_ends_it() {
    let stage = Stage::new();
    // `output` also shows that nothing keeps our pipes open.
    assert_eq!(error(&stage.run(&[])), (Some(0), String::new()));
    assert_eq!(std::fs::read_dir(stage.mountpoint()).unwrap().count(), 0);
    let second = error(&stage.run(&[]));
    let mountpoint = stage.mountpoint();
    let expected = format!(
        "verneuil-fs: {0}: a verneuil mount is already there: fusermount3 -u {0} ends it",
        mountpoint.display()
    );
    assert_eq!(second, (Some(1), expected));
    kill(stage.daemon(), Signal::SIGTERM).unwrap();
    eventually("unmounted", || !stage.is_mounted());
}

#[test]
fn sigterm_sigint_and_unmounting_end_the_foreground_daemon_with_success() {
    for signal in [Some(Signal::SIGTERM), Some(Signal::SIGINT), None] {
        let stage = Stage::new();
        let mut child = stage.start_in_foreground();
        match signal {
            Some(signal) => kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap(),
            None => nix::mount::umount(&stage.mountpoint()).unwrap(),
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal:?}");
        assert!(!stage.is_mounted());
    }
}

#[test]
fn a_busy_mount_is_taken_away_at_once_and_its_daemon_ends() {
    let stage = Stage::new();
    let mut child = stage.start_in_foreground();
    let busy = std::fs::File::open(stage.mountpoint()).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!stage.is_mounted());
    drop(busy);
}

#[test]
fn a_mount_left_dead_by_a_killed_daemon_is_replaced() {
    let stage = Stage::new();
    let mut child = stage.start_in_foreground();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(stage.is_mounted() && std::fs::read_dir(stage.mountpoint()).is_err());
    assert_eq!(stage.run(&[]).status.code(), Some(0));
    assert_eq!(std::fs::read_dir(stage.mountpoint()).unwrap().count(), 0);
    kill(stage.daemon(), Signal::SIGTERM).unwrap();
    eventually("unmounted", || !stage.is_mounted());
}

#[test]
fn a_daemon_killed_in_its_first_moments_is_gone_at_once() {
    for delay_us in (0..40).map(|k| k * 50) {
        let stage = Stage::new();
        let mut child = stage.start_in_foreground();
        std::thread::sleep(Duration::from_micros(delay_us));
        child.kill().unwrap();
        eventually("dead", || child.try_wait().unwrap().is_some());
    }
}

#[test]
fn what_can_t_be_mounted_is_said_in_one_line() {
    let stage = Stage::new();
    let dir = stage.dir.path().display();
    let none = stage
        .command(&[])
        .arg(stage.dir.path().join("none"))
        .output()
        .unwrap();
    assert_eq!(
        error(&none),
        (
            Some(1),
            format!("verneuil-fs: {dir}/none: no such directory: create it first")
        )
    );
    let file = stage.dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let file = stage.command(&[]).arg(file).output().unwrap();
    assert_eq!(
        error(&file),
        (
            Some(1),
            format!("verneuil-fs: {dir}/file: not a directory: a mount needs one")
        )
    );

    let without_target = stage
        .command(&[])
        .arg(stage.mountpoint())
        .env("VERNEUIL_CONFIG", "")
        .output()
        .unwrap();
    let (status, text) = error(&without_target);
    assert!(
        status == Some(1) && text.starts_with("verneuil-fs: no replication target is configured"),
        "{text}"
    );
    let (status, text) = error(&stage.run(&["-c", r#"{"no_such_key": 1}"#]));
    assert!(
        status == Some(1) && text.contains("no_such_key") && text.lines().count() == 1,
        "{text}"
    );
    assert_eq!(stage.run(&["-o", "locking=kernel"]).status.code(), Some(2));
    assert_eq!(stage.run(&["--sd-notify"]).status.code(), Some(2));
    assert!(!stage.is_mounted());
}
