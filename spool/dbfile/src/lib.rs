//! Descriptors of database files, pooled per inode, and what sqlite's locks, journal and header say about them: below `verneuil-unix` (which
//! locks through these descriptors) and `verneuil-spool`/`verneuil-copier` (which only look).
//!
//! Two traps of POSIX locks shape this crate. Closing *any* descriptor of a file drops every POSIX lock that the process holds on it, those
//! of a stock-`unix` connection included: hence [`Pooled`], which closes only when nobody holds a lock. And a lock can be asked about
//! without taking one: hence [`probe_locks`]. A third is what a fork does to both: hence [`fork`].
#![deny(unsafe_code)]

// The two modules that must: a handler of forks, values that outlive every lock, and what the handler does to descriptors.
#[allow(unsafe_code)]
pub mod fork;
mod header;
#[allow(unsafe_code)]
mod inherited;
mod journal;
mod locks;
mod pool;
mod streams;

pub use fork::ForkLocal;
pub use header::{Header, read_header};
pub use inherited::Unshared;
pub use journal::{Journal, journal_is_hot, journal_path, journal_state};
pub use locks::{LockBytes, LockState, probe_any_lock, probe_locks};
pub use pool::{FileId, Pooled, adopt, open, open_again, waiting_count};
pub use streams::{occupy_standard_streams, off_standard_streams};
