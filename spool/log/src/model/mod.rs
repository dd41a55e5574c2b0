//! The real code of this crate under a model checker of interleavings and memory orders, loom: `--cfg verneuil_loom` swaps what `crate::sync` names,
//! and the control page's memory (`map`).
//!
//! Loom and not shuttle, because what is to be shown are the orders: shuttle runs sequentially consistent interleavings only, and those of the
//! protocol's steps are explored by integration/tests/model already. Threads stand for processes. Their system calls are relaxed accesses to one
//! object, in one order, and no fences: see docs/PROTOCOL.md, "Memory order".
//!
//! Run it with
//! `RUSTFLAGS="--cfg verneuil_loom" cargo test --release --locked -p verneuil-spool --lib --target-dir target/loom model::`

#[cfg(test)]
mod casts;
#[cfg(test)]
mod copier;
#[cfg(test)]
mod orders;
pub(crate) mod sync;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
