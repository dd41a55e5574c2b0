//! Waiting for a file to hold still: copier steps 5 to 7, and step 11. The rest of a pass is in the parent module.

use std::time::{Duration, Instant};

use verneuil_spool::Seen;

use super::{Outcome, Pass, Step};
use crate::catchup::{Need, Source};
use crate::error::{Blocked, CopyError};
use crate::look::Look;

/// How long leftover dirty bits are watched before they count as a dead writer's: a live one needs microseconds from its unlock to the end
/// of its append, and being wrong costs a catch-up in quiet mode, nothing more.
const LEFTOVER_PATIENCE: Duration = Duration::from_millis(100);
/// How long a writer may keep a needed chunk dirty before the pass gives up for now.
const DIRTY_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks at bits that a writer is about to clear.
const DIRTY_PAUSE: Duration = Duration::from_millis(1);

/// What became of the dirty bits of needed chunks.
pub(super) enum Clean {
    /// Each was seen clear.
    Yes,
    /// Nobody will clear them, and nothing has moved.
    Quiet,
    /// Start over.
    Again,
    /// Not now.
    Blocked(Blocked),
}

impl Pass {
    /// Step 5: each needed dirty bit is seen clear once, or step 6: nobody will ever clear it.
    pub(super) async fn see_clean(
        &mut self,
        need: &Need,
        source: &Source,
        reference: &Look,
    ) -> Result<Clean, CopyError> {
        let begun = Instant::now();
        let mut unseen: Option<Vec<u32>> = None;
        loop {
            let dirty = self.ledger.lock().dirty()?;
            let left: Vec<u32> = match unseen {
                None => dirty.iter().filter(|chunk| need.contains(*chunk)).collect(),
                Some(chunks) => chunks
                    .into_iter()
                    .filter(|chunk| dirty.contains(*chunk))
                    .collect(),
            };
            if left.is_empty() {
                return Ok(Clean::Yes);
            }
            unseen = Some(left);
            if begun.elapsed() > LEFTOVER_PATIENCE {
                match source.look()? {
                    Ok(look) if look.same_state(reference) => {
                        if dirty.iter().all(|chunk| need.contains(chunk)) {
                            return Ok(Clean::Quiet);
                        }
                        self.ledger.add_need(self.target, &dirty);
                        return Ok(Clean::Again);
                    }
                    // Nobody writes and bits are left, but the file has moved since the first slice: read again.
                    Ok(look) if is_odd(look.epoch) => return Ok(Clean::Again),
                    Ok(_) | Err(Blocked::Writing) => {}
                    Err(blocked) => return Ok(Clean::Blocked(blocked)),
                }
            }
            if begun.elapsed() > DIRTY_PATIENCE {
                return Ok(Clean::Blocked(Blocked::Writing));
            }
            tokio::time::sleep(DIRTY_PAUSE).await;
        }
    }

    /// Step 7: the counter is the noted one, or that of our own last transaction. While somebody writes, nobody can tell.
    pub(super) async fn counter_is_known(
        &self,
        source: &Source,
        reference: &Look,
    ) -> Result<Result<bool, Blocked>, CopyError> {
        let begun = Instant::now();
        loop {
            let blocked = match source.look()? {
                Ok(look) => {
                    let counter = look.header.change_counter;
                    if counter == reference.header.change_counter
                        || Some(counter) == self.ledger.lock().last_cc()
                    {
                        return Ok(Ok(true));
                    }
                    // A writer of ours that has unlocked and not yet noted its counter looks like a stranger for an instant.
                    if begun.elapsed() > LEFTOVER_PATIENCE {
                        return Ok(Ok(false));
                    }
                    Blocked::Writing
                }
                Err(Blocked::Writing) => Blocked::Writing,
                Err(blocked) => return Ok(Err(blocked)),
            };
            if begun.elapsed() > DIRTY_PATIENCE {
                return Ok(Err(blocked));
            }
            tokio::time::sleep(DIRTY_PAUSE).await;
        }
    }

    /// Step 11: nothing is pending by our own account; is that so?
    pub(super) async fn idle(&mut self) -> Result<Step, CopyError> {
        let source = self.source()?;
        let begun = Instant::now();
        loop {
            let lock = self.ledger.lock();
            let epoch = lock.epoch();
            let look = match source.look()? {
                Ok(look) => look,
                // A writer of ours is at it: what it has not committed yet is not pending. Another's lock may hide a commit that is.
                Err(Blocked::Writing) if lock.writer_lives() => {
                    // When it began it may have handed over what others had left or committed (writer steps 1 and 2).
                    return Ok(if self.is_pending()? {
                        Step::Again
                    } else {
                        Step::Done(Outcome::Idle)
                    });
                }
                Err(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
            };
            if self.is_pending()? {
                return Ok(Step::Again);
            }
            if look.epoch != epoch {
                continue;
            }
            // After a dead writer's epoch was settled, a foreign commit still shows in the counter.
            if !is_odd(epoch) || self.ledger.settled_epoch(self.target) == epoch {
                return Ok(if self.is_as_published(&source, &look) {
                    Step::Done(Outcome::Idle)
                } else {
                    Step::Again
                });
            }
            if begun.elapsed() > LEFTOVER_PATIENCE {
                // A writer died between its first write and the end of its append.
                let dirty = lock.dirty()?;
                if dirty.is_empty() {
                    self.ledger.set_settled_epoch(self.target, epoch);
                } else {
                    self.ledger.add_need(self.target, &dirty);
                }
                return Ok(Step::Again);
            }
            tokio::time::sleep(DIRTY_PAUSE).await;
        }
    }

    fn is_pending(&self) -> Result<bool, CopyError> {
        Ok(self.ledger.has_news(self.target) || self.ledger.needs_reading(self.target)?)
    }

    /// Whether nobody has changed the file behind our back. If somebody has, everything is needed.
    fn is_as_published(&self, source: &Source, look: &Look) -> bool {
        let counter = look.header.change_counter;
        let published = self.base.as_ref().map(|base| base.manifest().source());
        // The length, too: a copy over the file before anybody has noted how it looks.
        if published.map(|source| (source.change_counter, source.file_len))
            != Some((counter, look.len))
        {
            self.ledger.need_everything(self.target);
            return false;
        }
        let id = source.file.id();
        let now = Seen {
            epoch: look.epoch,
            dev: id.dev,
            ino: id.ino,
            len: look.len,
            mtime_ns: look.mtime_ns,
        };
        let last = self
            .ledger
            .lock()
            .seen()
            .filter(|last| last.epoch == now.epoch);
        if last == Some(now) {
            return true;
        }
        if last.is_some() {
            // None of ours has written since: a copy over the file, or another file of that name, with the same counter. Needed before it is
            // forgotten how the file looked.
            self.has_stranger();
            self.ledger.everything_for_everybody();
        }
        if look.is_settled() {
            self.ledger.lock().set_seen(&now);
        }
        last.is_none()
    }
}

/// Waits for a look at the file that a later write is sure to change.
pub(super) async fn settled_look(source: &Source) -> Result<Result<Look, Blocked>, CopyError> {
    let begun = Instant::now();
    loop {
        let blocked = match source.look()? {
            // A writer between its unlock and the end of its append has changed the counter and not yet noted it: not a stranger's commit.
            Ok(look)
                if is_odd(look.epoch)
                    && source.ledger.lock().writer_lives()
                    && begun.elapsed() < LEFTOVER_PATIENCE =>
            {
                Blocked::Moving
            }
            Ok(look) if look.is_settled() => return Ok(Ok(look)),
            Ok(_) => Blocked::Moving,
            Err(Blocked::Writing) => Blocked::Writing,
            Err(blocked) => return Ok(Err(blocked)),
        };
        if begun.elapsed() > DIRTY_PATIENCE {
            return Ok(Err(blocked));
        }
        tokio::time::sleep(DIRTY_PAUSE).await;
    }
}

fn is_odd(epoch: u64) -> bool {
    epoch % 2 == 1
}
