//! Logs of the crates below, to stderr, one plain line each; `main` starts it.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Starts logging by `filter`, else by `RUST_LOG`, else errors only.
pub fn start(filter: Option<&str>) -> Result<(), Failure> {
    let filter = match filter {
        Some(text) => EnvFilter::builder().parse(text).map_err(|error| {
            Failure::Usage(format!(
                "--log {text:?}: {error}; try error, warn, info, debug or trace"
            ))
        })?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}
