//! Placeholder until the store's owner writes it.

/// A server.
#[derive(Debug)]
pub struct Seaweed;

impl Seaweed {
    /// Starts.
    ///
    /// # Errors
    /// Always.
    pub fn start() -> anyhow::Result<Self> {
        anyhow::bail!("not there yet")
    }
    /// Address.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        std::net::SocketAddr::from(([127, 0, 0, 1], 1))
    }
    /// Credentials.
    #[must_use]
    pub fn credentials(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}
