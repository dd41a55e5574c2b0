//! `VERNEUIL_SELF_CHECK=1`: a test mode in which nothing is believed. Called by the extension at the end of each write transaction, under its lock, and by
//! `lane` after each publication; a difference ends the process.
//!
//! Two comparisons (ADR 8 says why these):
//!
//! - *Before.* At the end of a transaction the state that a publication would carry now is put together as `pass` would, chunk by chunk (`View`): from
//!   the logs, else from the last manifest, read back from the store. Each chunk is compared with the file, which nobody can write meanwhile. What
//!   would be read from the file proves nothing and is counted apart; when that is more than one chunk in twenty, the transaction waits for the
//!   catch-up first.
//! - *After.* Each manifest that this process publishes is compared with the states that its transactions left (`after`, `notes`), which finds mixtures of two states that
//!   the next publication would mend.
//!
//! Every target is checked: each publishes by itself, with a base and offers of its own.

mod after;
mod notes;
mod totals;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use verneuil_config::TargetConfig;
use verneuil_dbfile::read_header;
use verneuil_format::{CHUNK_LEN_BYTES, ChunkId, ChunkIndex, chunk_count, chunk_len};
use verneuil_spool::{Database, Ended, Ledger, Origin, SpoolError, TargetId};

use crate::base::{Base, target_id};
use crate::destination::Destination;
use crate::lane::identity;
use crate::service::{Copier, LedgerSlot};

use notes::{Notes, State};
use totals::{Count, Totals};

/// How long another process' copier may keep the database's lock.
const COPIER_PATIENCE: Duration = Duration::from_secs(2);
/// How long anything is waited for while another connection waits to write. Its PENDING lock keeps a copier from reading the file, so that longer would
/// be of no use.
const CONTENDED_PATIENCE: Duration = Duration::from_millis(100);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the store may take to answer.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a transaction waits for the catch-up: that of 100 MB takes a second, and several on a machine that is busy with other tests.
pub const CATCH_UP_PATIENCE: Duration = Duration::from_secs(4);
/// After a catch-up that did not come to an end in that time (the store is away), none is waited for.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(500);

/// What the check of one process knows.
#[derive(Debug)]
pub(crate) struct SelfCheck {
    totals: Arc<Totals>,
    databases: Mutex<HashMap<PathBuf, Arc<Known>>>,
}

/// What is known of one database.
#[derive(Debug)]
pub(crate) struct Known {
    totals: Arc<Totals>,
    notes: Mutex<Notes>,
    /// The last manifest of each target, as read from the store.
    bases: Mutex<HashMap<TargetId, Base>>,
    hurry_again_at: Mutex<Option<Instant>>,
}

/// Why a transaction was not compared with a target.
type Skipped = Count;

/// The file as the transaction left it.
struct Now {
    ids: Vec<ChunkId>,
    file_len: u64,
    change_counter: u32,
}

impl Now {
    fn read(file: &File) -> io::Result<Self> {
        let file_len = file.metadata()?.len();
        let change_counter = read_header(file)?.change_counter;
        let mut buffer = vec![0; CHUNK_LEN_BYTES as usize];
        let count = u32::try_from(chunk_count(file_len)).unwrap_or(u32::MAX);
        let read = |index: u32| {
            let bytes = &mut buffer[..chunk_len(file_len, ChunkIndex(index)) as usize];
            file.read_exact_at(bytes, u64::from(index) * u64::from(CHUNK_LEN_BYTES))?;
            Ok(ChunkId::of(bytes))
        };
        Ok(Self {
            ids: (0..count).map(read).collect::<io::Result<_>>()?,
            file_len,
            change_counter,
        })
    }

    fn state(&self) -> (u64, u32) {
        (self.file_len, self.change_counter)
    }
}

impl SelfCheck {
    pub(crate) fn new(report: Option<PathBuf>) -> Self {
        Self {
            totals: Arc::new(Totals::new(report)),
            databases: Mutex::default(),
        }
    }

    pub(crate) fn known(&self, path: &Path) -> Arc<Known> {
        let mut databases = locked(&self.databases);
        let known = databases.entry(path.to_owned()).or_insert_with(|| {
            self.totals.add(Count::Databases, 1);
            Arc::new(Known {
                totals: Arc::clone(&self.totals),
                notes: Mutex::default(),
                bases: Mutex::default(),
                hurry_again_at: Mutex::default(),
            })
        });
        Arc::clone(known)
    }
}

impl Copier {
    /// In the test mode, compares the file with what would be published, under the lock of the transaction that has just ended. `catch_up` lets
    /// every target have all that is committed, or gives up after [`CATCH_UP_PATIENCE`].
    ///
    /// Ends the process if they differ.
    pub fn check_transaction(
        &self,
        db: &Arc<Database>,
        file: &File,
        ended: Ended,
        catch_up: impl FnOnce() -> bool + Send + 'static,
    ) {
        let Some(check) = self.self_check() else {
            return;
        };
        if ended == Ended::Nothing {
            return;
        }
        db.set_checked();
        let known = check.known(db.path());
        check.totals.add(Count::Transactions, 1);
        match self.compare(check, &known, db, file, ended, catch_up) {
            Ok(chunks) => {
                check.totals.add(Count::Checked, 1);
                check.totals.add_chunks(chunks);
            }
            Err(skipped) => check.totals.add(skipped, 1),
        }
        check.totals.report_in_between();
    }

    /// Appends what the test mode has counted to its report.
    pub fn report_self_check(&self) {
        if let Some(check) = self.self_check() {
            check.totals.report();
        }
    }

    fn compare(
        &self,
        check: &SelfCheck,
        known: &Known,
        db: &Arc<Database>,
        file: &File,
        ended: Ended,
        catch_up: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<[u64; 3], Skipped> {
        let epoch = db.epoch().filter(|epoch| epoch.is_multiple_of(2));
        let (Ended::Spooled, false, Some(epoch)) = (ended, db.has_missed(), epoch) else {
            locked(&known.notes).forget();
            return Err(Count::SkippedUnspooled);
        };
        let Ok(now) = Now::read(file) else {
            locked(&known.notes).forget();
            return Err(Count::SkippedUnspooled);
        };
        let state = State::new(now.change_counter, now.file_len, &now.ids);
        locked(&known.notes).add(epoch, state);
        let is_wanted = || is_wanted(db, file);
        let compared = self.compare_targets(known, db, &now, is_wanted)?;
        let mut hurry_again_at = locked(&known.hurry_again_at);
        if !check.totals.proves_too_little(compared)
            || hurry_again_at.is_some_and(|at| Instant::now() < at)
        {
            return Ok(compared);
        }
        check.totals.add(Count::Waited, 1);
        let begun = Instant::now();
        let has_caught_up = has_caught_up(catch_up, is_wanted);
        // What failed at once (a journal, somebody who wants to write) costs no time the next time either.
        *hurry_again_at = (!has_caught_up && begun.elapsed() >= CATCH_UP_PATIENCE)
            .then(|| Instant::now() + CATCH_UP_PAUSE);
        drop(hurry_again_at);
        // Somebody may keep the lock now: what was compared before counts.
        Ok(self
            .compare_targets(known, db, &now, is_wanted)
            .unwrap_or(compared))
    }

    /// Compares with each target. As long as one of them could be, the transaction is checked.
    fn compare_targets(
        &self,
        known: &Known,
        db: &Arc<Database>,
        now: &Now,
        is_wanted: impl Fn() -> bool,
    ) -> Result<[u64; 3], Skipped> {
        let slot = self.ledger_slot(db);
        let mut result = Err(Count::SkippedUnspooled);
        for target in self.targets(db) {
            let compared = enter(&slot, db, &is_wanted)
                .and_then(|ledger| self.compare_target(known, db, ledger, &target, now));
            match compared {
                Ok(more) => {
                    let sum = result.unwrap_or([0; 3]);
                    result = Ok(std::array::from_fn(|at| sum[at] + more[at]));
                }
                Err(skipped) => result = result.or(Err(skipped)),
            }
        }
        result
    }

    fn compare_target(
        &self,
        known: &Known,
        db: &Arc<Database>,
        ledger: Arc<Ledger>,
        target: &TargetConfig,
        now: &Now,
    ) -> Result<[u64; 3], Skipped> {
        let destination = self.destination(target).map_err(|_| Count::SkippedStore)?;
        let id = target_id(target, db);
        let instance = ledger.lock().instance_id();
        let fail = |what: String| -> ! { fail(db.path(), &destination.name, &what) };
        let (mut log, mut from_file, mut rest) = (0, 0, Vec::new());
        // The log may be gone as soon as the view is: what it holds is compared within.
        let viewed = ledger.view(id, |view| -> Result<_, SpoolError> {
            let is_in_manifest = match view.state_origin() {
                Origin::Log(replay) => {
                    let said = (replay.file_len(), replay.change_counter());
                    if said != (Some(now.file_len), Some(now.change_counter)) {
                        fail(format!(
                            "length and change counter of the file are {:?}, and {said:?} in the change log",
                            now.state()
                        ));
                    }
                    false
                }
                Origin::Manifest => true,
                Origin::File => false,
            };
            for (index, expected) in (0u32..).zip(&now.ids) {
                match view.origin(index) {
                    Origin::Log(replay) if ChunkId::of(&replay.bytes(index)?) == *expected => {
                        log += 1;
                    }
                    Origin::Log(replay) => fail(format!(
                        "chunk {index} of the file differs from the change log {:?} at byte {} (change counter {})",
                        replay.path(),
                        first_difference(db.path(), index, &replay.bytes(index)?),
                        now.change_counter,
                    )),
                    Origin::Manifest => rest.push(index),
                    Origin::File => from_file += 1,
                }
            }
            Ok((view.generation(), is_in_manifest))
        });
        let is_current = ledger.lock().is_current();
        drop(ledger);
        let (generation, is_in_manifest) = match viewed {
            Ok(Ok(viewed)) => viewed,
            // Its last record was written a moment ago.
            Err(error @ SpoolError::Unusable { .. }) if is_current => fail(error.to_string()),
            Ok(Err(_)) | Err(_) => return Err(Count::SkippedSpool),
        };
        if rest.is_empty() && !is_in_manifest {
            return Ok([log, 0, from_file]);
        }
        let base = locked(&known.bases).remove(&id);
        let compared = rest.len() as u64;
        let (base, ids) = fetch(&destination, db, instance, generation, base, rest.clone())?;
        let source = *base.manifest().source();
        let number = base.manifest().generation().0;
        let said = (source.file_len, source.change_counter);
        if is_in_manifest && said != now.state() {
            fail(format!(
                "length and change counter of the file are {:?}, and {said:?} in manifest {number}",
                now.state()
            ));
        }
        for (index, id) in rest.iter().zip(&ids) {
            if *id != now.ids.get(*index as usize).copied() {
                fail(format!(
                    "chunk {index} of the file differs from manifest {number}, and nothing that is pending changes it (change counter {})",
                    now.change_counter
                ));
            }
        }
        locked(&known.bases).insert(id, base);
        Ok([log, compared, from_file])
    }
}

/// The ledger of this process, or the lock from somebody else, who gives it up as soon as nothing is pending.
fn enter(
    slot: &LedgerSlot,
    db: &Database,
    is_wanted: impl Fn() -> bool,
) -> Result<Arc<Ledger>, Skipped> {
    let begun = Instant::now();
    loop {
        match slot.enter(db) {
            Ok(Some(ledger)) => return Ok(ledger),
            Ok(None) if begun.elapsed() < patience(COPIER_PATIENCE, &is_wanted) => {
                std::thread::sleep(PAUSE);
            }
            Ok(None) => return Err(Count::SkippedCopier),
            Err(_) => return Err(Count::SkippedSpool),
        }
    }
}

/// Whether another connection waits for ours to let go of the file.
fn is_wanted(db: &Database, file: &File) -> bool {
    verneuil_dbfile::probe_locks(file, db.lock_bytes()).is_ok_and(|locks| locks.pending)
}

fn patience(ordinary: Duration, is_wanted: impl Fn() -> bool) -> Duration {
    if is_wanted() {
        CONTENDED_PATIENCE
    } else {
        ordinary
    }
}

/// Runs the catch-up on a thread of its own, so that it can be left alone.
fn has_caught_up(
    catch_up: impl FnOnce() -> bool + Send + 'static,
    is_wanted: impl Fn() -> bool,
) -> bool {
    if is_wanted() {
        // It would come to nothing, and the lanes would go on trying for a while.
        return false;
    }
    let (answer, reply) = sync_channel(1);
    let body = move || {
        // The application's signals are its own threads'.
        let is_apart = SigSet::all().thread_block().is_ok();
        // Whoever asked may have given up.
        let _ = answer.send(is_apart && catch_up());
    };
    if std::thread::Builder::new().spawn(body).is_err() {
        return false;
    }
    let begun = Instant::now();
    loop {
        match reply.recv_timeout(PAUSE) {
            Ok(has_caught_up) => return has_caught_up,
            Err(RecvTimeoutError::Timeout)
                if begun.elapsed() < patience(CATCH_UP_PATIENCE, &is_wanted) => {}
            Err(_) => return false,
        }
    }
}

/// The last manifest (read again if there is a newer one than `base`), and what it says about these chunks.
fn fetch(
    destination: &Arc<Destination>,
    db: &Arc<Database>,
    instance: [u8; 16],
    generation: u64,
    base: Option<Base>,
    chunks: Vec<u32>,
) -> Result<(Base, Vec<Option<ChunkId>>), Skipped> {
    let (answer, reply) = sync_channel(1);
    let (from, identity) = (Arc::clone(destination), identity(db, instance));
    // Not `block_on`: the application's thread may be one of another runtime.
    destination.handle.spawn(async move {
        let fetched = async {
            let store = from.store(true).await.map_err(|_| Count::SkippedStore)?;
            // What is not pending is the same in every manifest from that one on.
            let is_new = |base: &Base| base.manifest().generation().0 >= generation;
            let mut base = match base.filter(is_new) {
                Some(base) => base,
                None => match Base::load(&store, identity, generation).await {
                    Ok((base, true)) => base,
                    Ok((_, false)) => return Err(Count::SkippedManifest),
                    Err(_) => return Err(Count::SkippedStore),
                },
            };
            let ids = base.chunk_ids(&store, &chunks).await;
            Ok((base, ids.map_err(|_| Count::SkippedStore)?))
        };
        // Whoever asked may have given up.
        drop(answer.send(fetched.await));
    });
    reply
        .recv_timeout(STORE_PATIENCE)
        .unwrap_or(Err(Count::SkippedStore))
}

/// For the message: where a chunk of the file differs.
fn first_difference(path: &Path, index: u32, other: &[u8]) -> u64 {
    let first = u64::from(index) * u64::from(CHUNK_LEN_BYTES);
    let mut bytes = vec![0; other.len()];
    let read = verneuil_dbfile::open(path, nix::fcntl::OFlag::O_RDONLY, 0)
        .and_then(|file| file.read_exact_at(&mut bytes, first));
    let same = bytes.iter().zip(other).take_while(|(a, b)| a == b).count();
    first + read.map_or(0, |()| same as u64)
}

/// Says what is wrong in one line, here and in the report, and ends the process in the way that nobody overlooks.
pub(crate) fn fail(database: &Path, target: &str, what: &str) -> ! {
    let line = format!(
        "verneuil: self-check: {}: {what} (target {target})\n",
        database.display()
    );
    // No lock of Rust's stderr: a forked child may find it locked.
    let _ = nix::unistd::write(io::stderr(), line.as_bytes());
    totals::report_mismatch(database, target, what);
    std::process::abort()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
