//! The row of `PRAGMA verneuil_status`: JSON, from what the spool knows; called by `pragma` and by whoever implements
//! [`Replication`](crate::Replication).

use serde_json::{Map, Value, json};
use std::time::UNIX_EPOCH;
use verneuil_spool::Database;

/// The status of what is not replicated.
pub(crate) fn unreplicated(reason: &str) -> String {
    json!({"replicated": false, "reason": reason}).to_string()
}

/// What the spool says about a database. `replicated` is whether commits reach the spool; `is_pending`, whether something waits in it.
#[must_use]
pub fn of_spool(database: &Database) -> Map<String, Value> {
    let trouble = database.trouble();
    let mut status = Map::new();
    let mut set = |key: &str, value: Value| {
        status.insert(key.to_owned(), value);
    };
    set("replicated", trouble.is_none().into());
    set("reason", trouble.into());
    set("path", database.path().to_string_lossy().into());
    set("host", database.info().hostname.as_str().into());
    set("spool", database.spool().root().to_string_lossy().into());
    match database.progress() {
        Ok(Some(progress)) => {
            set("generation", progress.published_generation.into());
            set("log_bytes", progress.head.len_bytes.into());
            set("chunks_in_flight", progress.inflight.into());
            let is_pending = progress.head.len_bytes > 0
                || progress.sealed.is_some()
                || progress.todo
                || progress.dirty
                || progress.inflight != Some(0);
            set("is_pending", is_pending.into());
        }
        Ok(None) => set("generation", Value::Null),
        Err(error) => set("spool_error", error.to_string().into()),
    }
    let last_error = database.last_error().map(|(time, text)| {
        let time_ms = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        json!({"time_ms": time_ms, "text": text})
    });
    set("last_error", last_error.into());
    status
}
