//! End-to-end tests and their harness: a real S3 server, real mounts, real sqlite programs; `tests/` holds the tests,
//! this library what they share.
//!
//! The products are tested from outside, as files in `target/release`: the extension is loaded by sqlite programs, the
//! mount is a process, `verneuilctl` a command. Nothing here may hang or outlive its test: every command has a time
//! limit, every child dies with the thread that started it, every mount is undone lazily.

pub mod boot;
pub mod dialogue;
pub mod fault;
pub mod footprint;
pub mod front;
pub mod ledger;
pub mod mount;
pub mod paths;
pub mod process;
pub mod publish;
pub mod seaweed;
pub mod self_check;
pub mod session;
pub mod setup;
pub mod state;
pub mod syscalls;
pub mod watch;
pub mod watchdog;
pub mod workload;
