//! What threads and processes synchronise with: the atomics of `layout` and `database`, the mutex of `ledger`, and fences around system calls.
//!
//! They are std's. With `--cfg verneuil_loom` they are those of `model`, which runs the same code through its interleavings and checks the
//! memory orders.

use std::sync::atomic::Ordering::SeqCst;

#[cfg(not(verneuil_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
};

#[cfg(verneuil_loom)]
pub(crate) use crate::model::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, MutexGuard, fence};

/// Makes a system call that the protocol orders with accesses to the control page: no formal fence by itself, so it stands between two.
pub(crate) fn system_call<T>(call: impl FnOnce() -> T) -> T {
    fence(SeqCst);
    #[cfg(verneuil_loom)]
    crate::model::sync::enter_kernel();
    let done = call();
    fence(SeqCst);
    done
}

/// A size: `real`, or one with which `model` gets through its interleavings.
pub(crate) const fn scaled(real: u64, in_model: u64) -> u64 {
    if cfg!(verneuil_loom) { in_model } else { real }
}
