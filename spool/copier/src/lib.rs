//! Drains spools into stores: catch-up, replay, upload, publish. Above `verneuil-spool` (which holds what is pending), `verneuil-format` (which
//! describes it) and `verneuil-store` (where it goes); used by the extension and by `verneuilctl flush`.
//!
//! - `service`: the list of databases that are served; `destination`: one target's threads and limits; `lane`: one database on its way to one
//!   target, its pacing and backing off;
//! - `pass`: the protocol, steps 1 to 11, for one target; `look` and `catchup`: reading the file without a lock (steps 4 to 7); `snapshot`: the next state;
//! - `base`: the last manifest and the objects it names;
//! - `flush`: waiting for somebody else's copier, flushing a whole spool;
//! - `daemon`: serving a whole spool, as a process of its own;
//! - `selfcheck`: a test mode in which nothing is believed;
//! - `status`: what is pending, for people;
//! - `requests`: what goes to a store;
//! - `error`: what can stop it.
// Only a test needs it: one that registers the VFS with the SQLite that it is linked with.
#![cfg_attr(not(test), forbid(unsafe_code))]
#![cfg_attr(test, deny(unsafe_code))]

mod base;
mod catchup;
mod daemon;
mod destination;
mod error;
mod flush;
mod lane;
mod look;
mod pass;
mod requests;
mod selfcheck;
mod service;
mod snapshot;
mod status;

pub use daemon::{CopyEvent, copy_spool};
pub use error::{Blocked, CopyError, FlushError};
pub use flush::{Flushed, SpoolFlush, Until, flush_spool, wait_until_stored};
pub use selfcheck::CATCH_UP_PATIENCE;
pub use service::Copier;
pub use status::{Status, TargetStatus, status};

#[cfg(test)]
mod tests;
