//! Crashes and faults at every point, from outside: each system call on database, journal, spool and store is where the process dies
//! or where the call fails, in turn. One test binary, one module per promise; `interposer` makes them happen, `verneuil_integration` is
//! the harness.

// The interposer knows the registers of this architecture.
#![cfg(target_arch = "x86_64")]

mod copier_points;
mod interposer;
mod power_loss;
mod restore_points;
mod scene;
mod spool_faults;
mod writer_points;
