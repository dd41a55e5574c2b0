//! The self-check's second comparison: what was published against what transactions have left (`notes`). Called by `pass` after each publication.

use std::path::Path;
use std::time::{Duration, Instant};

use verneuil_format::ChunkId;
use verneuil_spool::CopierLock;
use verneuil_store::Store;

use super::notes::{State, Verdict};
use super::totals::Count;
use super::{Known, fail, locked};
use crate::base::Base;

/// How long a publication waits for the transaction that it holds to be noted.
const NOTE_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks.
const NOTE_PAUSE: Duration = Duration::from_millis(2);

impl Known {
    /// Somebody has changed the file who is not one of ours.
    pub(crate) fn has_stranger(&self) {
        locked(&self.notes).forget();
    }

    /// Ends the process if `base`, which was published just now under this lock, is no state that a transaction has left.
    pub(crate) async fn check_published(
        &self,
        path: &Path,
        target: &str,
        store: &Store,
        base: &mut Base,
        lock: &CopierLock,
    ) {
        // Odd: that transaction has not ended. One of ours is noted before it lets others write.
        let (epoch, is_ours) = (lock.epoch() & !1, lock.was_written_here());
        let source = *base.manifest().source();
        let number = base.manifest().generation().0;
        let all: Vec<u32> = (0..base.manifest().chunk_count()).collect();
        let ids: Option<Vec<ChunkId>> = match base.chunk_ids(store, &all).await {
            Ok(ids) => ids.into_iter().collect(),
            Err(_) => None,
        };
        // An id is what the copier says of a patched chunk: do base and patch come to that?
        if let Ok(Some(index)) = base.damaged_patch(store).await {
            let what = format!("chunk {index} of manifest {number} can't be put together");
            fail(path, target, &what);
        }
        let begun = Instant::now();
        let verdict = loop {
            let Some(ids) = &ids else {
                break Verdict::Unknown;
            };
            let published = State::new(source.change_counter, source.file_len, ids);
            match locked(&self.notes).verdict(epoch, &published) {
                Verdict::NotYet if is_ours && begun.elapsed() < NOTE_PATIENCE => {}
                verdict => break verdict,
            }
            tokio::time::sleep(NOTE_PAUSE).await;
        };
        match verdict {
            Verdict::Noted => self.totals.add(Count::Manifests, 1),
            Verdict::Unknown | Verdict::NotYet => self.totals.add(Count::ManifestsUnknown, 1),
            Verdict::Wrong => {
                let what = format!(
                    "manifest {number} was published, and is no state that a transaction has left (change counter {}, {} bytes)",
                    source.change_counter, source.file_len
                );
                fail(path, target, &what)
            }
        }
    }
}
