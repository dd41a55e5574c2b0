//! `verneuilctl copy`: the copier as a process of its own. The work is `verneuil_copier`'s; this is what a service manager and a terminal see of it.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use verneuil_copier::{CopyEvent, copy_spool};

use super::flush;
use crate::cli::{Common, Copy};
use crate::failure::Failure;
use crate::output::report;
use crate::session;

pub fn run(common: &Common, args: &Copy) -> Result<(), Failure> {
    let config = session::config(common)?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Before any thread is started: they inherit which signals are blocked.
    let stop = signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC))
        .map_err(|error| Failure::Failed(format!("cannot wait for signals: {error}")))?;
    let spool = args.spool.display();
    let copied = copy_spool(&args.spool, &config, stop.as_fd(), |event| match event {
        CopyEvent::Waiting => {
            // Ready all the same: an application that is started after this makes the spool.
            report(&format!("{spool}: there is no spool yet; waiting for it"));
            notify("READY=1\nSTATUS=waiting for the spool");
        }
        CopyEvent::Serving { databases } => {
            notify(&format!(
                "READY=1\nSTATUS=serving {spool} ({databases} databases at first)"
            ));
        }
        CopyEvent::Unreadable(folder, error) => report(&format!("{}: {error}", folder.display())),
        CopyEvent::Stopping => {
            notify("STOPPING=1");
            // A second signal ends it at once; the first one has done its work.
            let _ = stop.read_signal();
            let _ = signals.thread_unblock();
        }
    })
    .map_err(|error| {
        Failure::Failed(format!(
            "{error}; SPOOL is the replication_spooling_dir of the application's configuration"
        ))
    })?;
    flush::left(&copied)
}

/// Tells the service manager, if there is one that listens; nobody is told if it does not.
fn notify(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let send = || -> io::Result<()> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?
            .send_to_addr(state.as_bytes(), &address)
            .map(drop)
    };
    if let Err(error) = send() {
        report(&format!(
            "cannot notify the service manager at {}: {error}",
            path.to_string_lossy()
        ));
    }
}
