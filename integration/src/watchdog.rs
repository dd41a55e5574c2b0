//! A time limit for a whole test: a test that hangs (a read from a mount that never answers, for example) is ended from
//! outside of itself, after `mount.rs` has undone all mounts.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Ends the test process if it is not dropped in time.
#[must_use = "the limit holds while this value lives"]
#[derive(Debug)]
pub struct Watchdog {
    _end: Sender<()>,
}

/// Starts a time limit for the test that calls this.
pub fn limit(test: &'static str, seconds: u64) -> Watchdog {
    let (end, ended) = channel();
    std::thread::spawn(move || watch(test, seconds, &ended));
    Watchdog { _end: end }
}

fn watch(test: &str, seconds: u64, ended: &Receiver<()>) {
    if ended.recv_timeout(Duration::from_secs(seconds)) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    eprintln!("{test}: still running after {seconds} s: the test process ends here");
    crate::mount::unmount_all();
    std::process::exit(101);
}
