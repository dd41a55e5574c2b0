//! The copier's wiring: [`InProcess`] is what `verneuil-tracking` calls, and `verneuil-copier` does.

use std::sync::Arc;
use verneuil_config::Config;
use verneuil_copier::Copier;
use verneuil_spool::Database;
use verneuil_tracking::Replication;

/// A copier in threads of this process.
pub(crate) struct InProcess {
    copier: Copier,
}

impl InProcess {
    /// A copier that has nothing to do yet: its threads start with the first database.
    pub(crate) fn new(config: &Config) -> InProcess {
        InProcess {
            copier: Copier::new(&config.copier, &config.targets),
        }
    }
}

impl Replication for InProcess {
    fn serve(&self, database: &Arc<Database>) {
        if let Err(error) = self.copier.serve(database) {
            let db = database.path().display();
            tracing::error!(%db, %error, "commits are spooled, but nothing uploads them");
        }
    }

    fn flush(&self, database: &Arc<Database>) -> Result<(), String> {
        self.copier
            .flush(database)
            .map_err(|error| error.to_string())
    }
}
