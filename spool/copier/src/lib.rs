//! Drains spools into stores: catch-up, replay, upload, publish. Above `verneuil-spool` (which holds what is pending), `verneuil-format` (which
//! describes it) and `verneuil-store` (where it goes); used by the extension and by `verneuilctl flush`.
//!
//! - `service`: the threads and the list of databases that are served; `task`: one database's pacing and backing off;
//! - `pass`: the protocol, steps 1 to 11; `look` and `catchup`: reading the file without a lock (steps 4 to 7); `snapshot`: the next state;
//! - `base`: the last manifest and the objects it names;
//! - `flush`: waiting for somebody else's copier, flushing a whole spool;
//! - `error`: what can stop it.
#![forbid(unsafe_code)]

mod base;
mod catchup;
mod error;
mod flush;
mod look;
mod pass;
mod service;
mod snapshot;
mod task;

pub use error::{Blocked, CopyError, FlushError};
pub use flush::{Flushed, SpoolFlush, flush_spool, wait_for_published};
pub use service::Copier;

#[cfg(test)]
mod tests;
