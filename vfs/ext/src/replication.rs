//! The copier's wiring: [`InProcess`] is what `verneuil-tracking` calls, and `verneuil-copier` does.

use std::sync::Arc;
use verneuil_config::Config;
use verneuil_spool::Database;
use verneuil_tracking::Replication;

/// A copier in threads of this process.
pub(crate) struct InProcess {}

impl InProcess {
    pub(crate) fn start(_config: &Config) -> Result<InProcess, String> {
        Ok(InProcess {})
    }
}

impl Replication for InProcess {
    fn serve(&self, _database: &Arc<Database>) {}

    fn flush(&self, _database: &Arc<Database>) -> Result<(), String> {
        Err("no copier".to_owned())
    }
}
