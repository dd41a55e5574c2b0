//! `VERNEUIL_SELF_CHECK=1`: has `verneuil-copier` compare every transaction with what would be published. Put around what `replication` makes; whoever
//! runs the copier, the comparison is made in this process.
//!
//! For tests: a commit takes as long as it takes to read the whole database, and a difference ends the process with SIGABRT.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use verneuil_config::Config;
use verneuil_copier::CATCH_UP_PATIENCE;
use verneuil_spool::{Database, Ended};
use verneuil_tracking::Replication;

use crate::replication::copier_of;

/// Whether the environment asks for it.
pub(crate) fn is_on() -> bool {
    std::env::var_os("VERNEUIL_SELF_CHECK").is_some_and(|value| value == "1")
}

/// Where the totals go.
pub(crate) fn report() -> Option<PathBuf> {
    std::env::var_os("VERNEUIL_SELF_CHECK_REPORT").map(PathBuf::from)
}

/// Replication that is checked.
pub(crate) struct Checked {
    config: Config,
    inner: Arc<dyn Replication>,
}

impl Checked {
    pub(crate) fn new(config: &Config, inner: Arc<dyn Replication>) -> Self {
        Self {
            config: config.clone(),
            inner,
        }
    }
}

impl Replication for Checked {
    fn has_ended(&self, database: &Arc<Database>, file: &File, ended: Ended) {
        let (inner, db) = (Arc::clone(&self.inner), Arc::clone(database));
        let catch_up = move || inner.flush_within(&db, CATCH_UP_PATIENCE).is_ok();
        copier_of(&self.config).check_transaction(database, file, ended, catch_up);
    }

    fn has_closed(&self, _: &Arc<Database>) {
        copier_of(&self.config).report_self_check();
    }

    fn serve(&self, database: &Arc<Database>) {
        self.inner.serve(database);
    }

    fn flush(&self, database: &Arc<Database>) -> Result<(), String> {
        self.inner.flush(database)
    }

    fn flush_within(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String> {
        self.inner.flush_within(database, limit)
    }

    fn wait(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String> {
        self.inner.wait(database, limit)
    }

    fn status(&self, database: &Arc<Database>) -> String {
        self.inner.status(database)
    }
}
