//! A store that accepts connections and never answers: what `leaving`, `forking` and `streams` have data on its way to.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use verneuil_integration::process::until;
use verneuil_integration::setup::Setup;

/// A first request is there by then.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// An S3 endpoint of that kind.
#[derive(Debug)]
pub struct Hole {
    listener: TcpListener,
    open: Vec<TcpStream>,
}

impl Hole {
    /// Opens it on a free port.
    pub fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            open: Vec::new(),
        })
    }

    /// The setup's configuration with this store instead of its own.
    pub fn config(&self, setup: &Setup) -> Result<Value> {
        let mut config = setup.config();
        config["replication_targets"] = json!([{"s3": {
            "region": "us-east-1",
            "endpoint": format!("http://{}", self.listener.local_addr()?),
            "chunk_bucket": "verneuil-chunks",
            "manifest_bucket": "verneuil-manifests",
            "domain_addressing": false,
        }}]);
        Ok(config)
    }

    /// Waits until somebody has connected, and so waits for an answer.
    pub fn is_asked(&mut self) -> Result<()> {
        let accepted = until("somebody asks the store", REQUEST_LIMIT, || {
            self.listener.accept().context("nobody")
        })?;
        self.open.push(accepted.0);
        Ok(())
    }

    /// Breaks the connections that there are; the next ones are accepted as before.
    pub fn hang_up(&mut self) {
        self.open.clear();
    }
}
