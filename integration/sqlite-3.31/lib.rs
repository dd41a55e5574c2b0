//! Nothing: `Cargo.toml` is what counts, see `tests/host_process/libraries.rs`.
