//! Who carries commits away, as `verneuil-tracking` calls it: `verneuil-copier` in threads of this process, somebody else, or nobody; wired by
//! `setup`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use verneuil_config::{Config, CopierMode};
use verneuil_copier::{Copier, Until, wait_until_stored};
use verneuil_dbfile::ForkLocal;
use verneuil_spool::Database;
use verneuil_tracking::Replication;

use crate::self_check::{self, Checked};

/// How long a flush waits for a copier in another process: as long as that of this process waits for one.
const EXTERNAL_FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// The copiers of this process and the configurations that they run under: two SQLite libraries with the same
/// configuration share one, and with it its pace. A forked child has none of its parent's, whose threads it doesn't have.
type Copiers = Mutex<Vec<(Config, Arc<Copier>)>>;
static COPIERS: ForkLocal<Copiers> = ForkLocal::new(Mutex::default);

/// The drain at the end of the process is arranged for.
static DRAINS_AT_EXIT: AtomicBool = AtomicBool::new(false);

/// What the key `copier.mode` makes of replication.
pub(crate) fn of(config: &Config) -> Arc<dyn Replication> {
    let replication: Arc<dyn Replication> = match config.copier.mode {
        CopierMode::InProcess => Arc::new(InProcess {
            config: config.clone(),
        }),
        CopierMode::External => Arc::new(External),
        CopierMode::Off => Arc::new(Off),
    };
    if self_check::is_on() {
        Arc::new(Checked::new(config, replication))
    } else {
        replication
    }
}

/// This process' copier of a configuration. Its threads start with the first database.
pub(crate) fn copier_of(config: &Config) -> Arc<Copier> {
    let mut copiers = copiers();
    if let Some((_, copier)) = copiers.iter().find(|(known, _)| known == config) {
        return Arc::clone(copier);
    }
    let copier = Arc::new(if self_check::is_on() {
        Copier::checked(&config.copier, &config.targets, self_check::report())
    } else {
        Copier::new(&config.copier, &config.targets)
    });
    copiers.push((config.clone(), Arc::clone(&copier)));
    drop(copiers);
    if !DRAINS_AT_EXIT.swap(true, Ordering::SeqCst) {
        // SAFETY: a function that takes nothing, does not unwind, and stays in memory: the extension is never unloaded.
        unsafe { libc::atexit(drain_at_exit) };
    }
    copier
}

/// A copier in threads of this process.
struct InProcess {
    config: Config,
}

impl InProcess {
    fn copier(&self) -> Arc<Copier> {
        copier_of(&self.config)
    }
}

impl Replication for InProcess {
    fn status(&self, database: &Arc<Database>) -> String {
        status(database)
    }

    fn serve(&self, database: &Arc<Database>) {
        if let Err(error) = self.copier().serve(database) {
            let db = database.path().display();
            tracing::error!(%db, %error, "commits are spooled, but nothing uploads them");
        }
    }

    fn flush(&self, database: &Arc<Database>) -> Result<(), String> {
        self.copier()
            .flush(database, None)
            .map_err(|error| error.to_string())
    }

    fn flush_within(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String> {
        self.copier()
            .flush(database, Some(limit))
            .map_err(|error| error.to_string())
    }

    fn wait(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String> {
        wait_until_stored(database, Until::Ours, limit).map_err(|error| error.to_string())
    }
}

/// The row of `PRAGMA verneuil_status`.
fn status(database: &Arc<Database>) -> String {
    let status = verneuil_copier::status(database, &[]);
    serde_json::to_string(&status).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
}

/// A copier in another process.
struct External;

impl Replication for External {
    fn serve(&self, _: &Arc<Database>) {}

    fn status(&self, database: &Arc<Database>) -> String {
        status(database)
    }

    fn flush(&self, database: &Arc<Database>) -> Result<(), String> {
        self.flush_within(database, EXTERNAL_FLUSH_LIMIT)
    }

    fn flush_within(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String> {
        wait_until_stored(database, Until::All, limit).map_err(|error| error.to_string())
    }

    fn wait(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String> {
        wait_until_stored(database, Until::Ours, limit).map_err(|error| error.to_string())
    }
}

/// Nobody.
struct Off;

impl Off {
    fn refusal(what: &str) -> Result<(), String> {
        Err(format!(
            "{what}: the configuration says copier.mode = \"off\": commits are spooled and nothing uploads them; run \
             verneuilctl flush on the spool, or choose another mode"
        ))
    }
}

impl Replication for Off {
    fn serve(&self, _: &Arc<Database>) {}

    fn status(&self, database: &Arc<Database>) -> String {
        status(database)
    }

    fn flush(&self, _: &Arc<Database>) -> Result<(), String> {
        Off::refusal("flush")
    }

    fn flush_within(&self, _: &Arc<Database>, _: Duration) -> Result<(), String> {
        Off::refusal("flush")
    }

    fn wait(&self, _: &Arc<Database>, _: Duration) -> Result<(), String> {
        Off::refusal("wait")
    }
}

/// At a clean end of the process: what is committed is given a short while to arrive. Does nothing in a forked child that has opened no database.
extern "C" fn drain_at_exit() {
    let drained = std::panic::catch_unwind(|| {
        // They stay in their list: nothing is torn down here, where thread-local values may be gone.
        let copiers = copiers().clone();
        for (config, copier) in copiers {
            copier.drain(Duration::from_millis(config.copier.drain_on_close_ms));
            copier.report_self_check();
        }
    });
    if let Err(panic) = drained {
        std::mem::forget(panic);
    }
}

fn copiers() -> MutexGuard<'static, Vec<(Config, Arc<Copier>)>> {
    COPIERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}
