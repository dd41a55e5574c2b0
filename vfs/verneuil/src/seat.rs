//! Where a connection sits while several files of SQLite's use it: its database file (`file`), and its journal, whose end may be that of a
//! transaction (`file`, `vfs`). The journal finds it here by its path.
//!
//! All of them are called under the mutex of one SQLite connection, so that the mutex here is never waited for; but not always
//! by the same thread.

use crate::connection::{Connection, fenced};
use crate::why::Unreplicated;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use verneuil_dbfile::fork::ForkLocal;

type State = Result<Connection, Unreplicated>;

pub(crate) struct Seat {
    state: Mutex<State>,
    /// Apart from the state: SQLite's question must be answered without a lock.
    offers_wal: AtomicBool,
}

/// The open databases of this process by the paths of their journals; several connections of a process may have the same.
type Journals = Mutex<HashMap<PathBuf, Vec<Weak<Seat>>>>;
static JOURNALS: ForkLocal<Journals> = ForkLocal::new(Mutex::default);

impl Seat {
    /// A seat for a connection that knows its seat.
    pub(crate) fn new(connection: impl FnOnce(&Weak<Seat>) -> Connection) -> Arc<Seat> {
        Arc::new_cyclic(|seat| {
            let connection = connection(seat);
            Seat {
                offers_wal: AtomicBool::new(connection.offers_wal()),
                state: Mutex::new(Ok(connection)),
            }
        })
    }

    /// Runs a hook; none if the connection is not replicated, any more.
    pub(crate) fn tell<T>(&self, hook: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        self.tell_in(self.lock(), hook)
    }

    fn tell_in<T>(
        &self,
        mut state: MutexGuard<'_, State>,
        hook: impl FnOnce(&mut Connection) -> T,
    ) -> Option<T> {
        let connection = state.as_mut().ok()?;
        let answer = fenced(|| hook(connection));
        if answer.is_none() {
            let broken = std::mem::replace(&mut *state, Err(Unreplicated::Bug));
            // What it leaves behind on its way out is the same as after a kill; that this may panic, too, is as good.
            let _ = fenced(|| drop(broken));
        }
        let offers_wal = state
            .as_ref()
            .map_or(true, |connection| connection.offers_wal());
        self.offers_wal.store(offers_wal, Ordering::Relaxed);
        answer
    }

    /// Why the connection is not replicated any more.
    pub(crate) fn why_not(&self) -> Option<Unreplicated> {
        self.lock().as_ref().err().copied()
    }

    pub(crate) fn offers_wal(&self) -> bool {
        self.offers_wal.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From now on, the end of that journal is told to this seat.
pub(crate) fn register(journal: PathBuf, seat: Weak<Seat>) {
    let mut journals = journals();
    let seats = journals.entry(journal).or_default();
    seats.retain(|seat| seat.strong_count() > 0);
    seats.push(seat);
}

/// Forgets the seat of a connection that is being closed, and others that are gone.
pub(crate) fn unregister(journal: &Path, seat: &Weak<Seat>) {
    let mut journals = journals();
    if let Some(seats) = journals.get_mut(journal) {
        seats.retain(|other| !other.ptr_eq(seat) && other.strong_count() > 0);
        if seats.is_empty() {
            journals.remove(journal);
        }
    }
}

/// A journal was deleted, emptied, or its header zeroed: if one of its databases is in a transaction, that is over.
pub(crate) fn journal_is_finished(journal: &Path) {
    let seats = match journals().get(journal) {
        Some(seats) => seats.clone(),
        None => return,
    };
    for seat in seats.iter().filter_map(Weak::upgrade) {
        // The connection whose journal it is does nothing else meanwhile: one that is busy is another one.
        if let Ok(state) = seat.state.try_lock() {
            seat.tell_in(state, Connection::journal_is_finished);
        }
    }
}

fn journals() -> MutexGuard<'static, HashMap<PathBuf, Vec<Weak<Seat>>>> {
    JOURNALS
        .get()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}
