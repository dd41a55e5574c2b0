//! SIGINT and SIGTERM as something to await, so that an interrupted restore removes its temp file. Without tokio's
//! signal feature: one thread waits for the signals, which all others block.

use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::oneshot;

use crate::failure::Failure;

/// How long what was interrupted has to clean up, should it be stuck (a reader of our output that stopped reading).
const GRACE: Duration = Duration::from_secs(2);

/// Resolves when a signal asks to stop.
pub type Interrupted = oneshot::Receiver<u8>;

/// Must be called before other threads are started: they inherit which signals are blocked.
pub fn watch() -> Result<Interrupted, Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!("cannot wait for signals: {error}"))
    };
    signals.thread_block().map_err(|error| failed(&error))?;
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            let number = u8::try_from(signal as i32).unwrap_or(u8::MAX);
            let _ = sender.send(number);
            std::thread::sleep(GRACE);
            std::process::exit(128 + i32::from(number));
        })
        .map_err(|error| failed(&error))?;
    Ok(receiver)
}
