//! The copier against a directory store, with a writer that does to file, locks and journal what sqlite does.

mod faults;
mod machine;
mod panic;
mod service;
mod steady;
mod targets;
pub(crate) mod trial;
mod world;
