//! The local half of replication: control page and change log, written by the commits that `verneuil-tracking` follows and drained by
//! `verneuil-copier`.
//!
//! The protocol between the two is spelled out, with its reasons, in docs/PROTOCOL.md; steps are named here by their numbers
//! ("writer step 5", "copier step 8").
//!
//! - `spool`, `folder`: directories and small files; `private`: how they are opened;
//! - `layout`, `map` (the only unsafe code), `control`, `chunks`: the control page;
//! - `record`, `spans`, `replay`: the change log;
//! - `database`: what the connections and the copier of a process share;
//! - `writer`, `transaction`, `append`, `place`: the write side, writer steps 1 to 7;
//! - `drain`: what the copier may do to control page and logs; `ledger`, `target`, `replays`: what each target lacks (copier steps 1 to 3, 8 to 10);
//! - `view`: what would be published now, for the self-check; `progress`: all of it at a glance;
//! - `sync`: the atomics, which are those of a model checker in `model`.

#![deny(unsafe_code)]

mod append;
mod chunks;
mod control;
mod database;
mod drain;
mod error;
mod folder;
mod layout;
mod ledger;
#[cfg_attr(verneuil_loom, path = "model/map.rs")]
#[allow(unsafe_code)]
mod map;
#[cfg(verneuil_loom)]
mod model;
mod place;
mod private;
mod progress;
mod record;
mod replay;
mod replays;
mod spans;
mod spool;
mod sync;
mod target;
mod transaction;
mod view;
mod writer;

pub use chunks::{CHUNK_LEN_BYTES, ChunkSet};
pub use control::{LogHead, Seen};
pub use database::{Database, DatabaseInfo, Waker};
pub use drain::{CopierLock, Need, Sealed};
pub use error::SpoolError;
pub use ledger::{Ledger, Published};
pub use progress::{Progress, TargetProgress};
pub use replay::Replay;
pub use replays::Replays;
pub use spool::{Spool, SpoolContents};
pub use target::{Lacks, TargetId, TargetRecord};
pub use view::{Origin, View};
pub use writer::{Ended, Writer};
