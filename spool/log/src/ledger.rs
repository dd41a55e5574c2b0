//! What each target of a database lacks, while a copier runs: the steps of the protocol that targets share (copier steps 1 to 3 and 8 to 10). On top of
//! `drain` (bits and logs) and `target` (records); driven by `verneuil-copier`, one caller per target.
//!
//! Everything here is local and short. No caller ever waits for another one's store: a target that is slow, away or gone finds what it has
//! missed in its share.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use crate::chunks::ChunkSet;
use crate::database::Database;
use crate::drain::{CopierLock, Need};
use crate::error::SpoolError;
use crate::layout::CHUNKS_MAX;
use crate::replay::Replay;
use crate::replays::Replays;
use crate::sync::{AtomicBool, Mutex, MutexGuard};
use crate::target::{Lacks, TargetId, TargetRecord, now_ns};
use crate::view::View;

/// Generations that wait for one target. Each costs an index in memory, and a file that has no name any more.
const OFFERS_MAX: usize = 8;
/// Generations that wait in this process for any target of any database: each is an open file of the application's, whose limit may be 1,024.
const OPEN_REPLAYS_MAX: usize = 64;
/// Logs that wait for one target may always have this many bytes; beyond the database's own length they become chunks to read.
const OFFERS_LEN_MIN_BYTES: u64 = 4 << 20;

/// The copier's lock on one database, and the share of each of its targets.
#[derive(Debug)]
pub struct Ledger {
    lock: CopierLock,
    shares: Mutex<BTreeMap<TargetId, Share>>,
    /// What is taken is kept until it is settled, for the self-check.
    keeps_taken: bool,
    /// A record could not be written the last time: another copier would not know what was published.
    is_stuck: AtomicBool,
}

/// What one target lacks: the union of the four, see docs/PROTOCOL.md.
#[derive(Debug)]
struct Share {
    record: TargetRecord,
    /// To be read from the file.
    need: Need,
    /// A catch-up is at it.
    reading: Need,
    /// Sealed and not yet taken.
    offers: Vec<Arc<Replay>>,
    /// Taken, and not known to be in the store.
    publishing: Need,
    /// The generations of that, if they are kept.
    taken: Vec<Arc<Replay>>,
    /// What `covers` becomes when that is published.
    covers: u32,
    /// Somebody in this process serves the target. Nothing is kept for one that nobody serves but a note of what it lacks.
    is_served: bool,
    /// The record on disk says all that is lacking.
    is_saved: bool,
}

/// What a target holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Number of its last manifest; 0 for none.
    pub generation: u64,
    /// SQLite's change counter in it.
    pub change_counter: Option<u32>,
}

impl Database {
    /// Tries to become the database's copier, as [`Database::lock_copier`] does, and reads what its targets lack (copier step 1).
    ///
    /// # Errors
    /// When lock, records or logs can't be opened or read.
    pub fn ledger(&self) -> Result<Option<Ledger>, SpoolError> {
        let open = |lock| Ledger::open(lock, self.is_checked());
        self.lock_copier()?.map(open).transpose()
    }
}

impl Ledger {
    fn open(lock: CopierLock, keeps_taken: bool) -> Result<Self, SpoolError> {
        // A generation that a dead copier sealed may be older than what it published afterwards: it is read from the file, never replayed.
        while let Some(sealed) = lock.leftover()? {
            lock.hand_to_inflight(sealed)?;
        }
        let inflight = lock.inflight()?;
        let mut shares = BTreeMap::new();
        for (target, record) in lock.target_records()? {
            let mut need = record.lacks.to_need(CHUNKS_MAX);
            need.extend(&inflight);
            shares.insert(target, Share::new(record, need));
        }
        Ok(Self {
            lock,
            shares: Mutex::new(shares),
            keeps_taken,
            is_stuck: AtomicBool::new(false),
        })
    }

    /// The lock, and with it the control page.
    pub fn lock(&self) -> &CopierLock {
        &self.lock
    }

    fn shares(&self) -> MutexGuard<'_, BTreeMap<TargetId, Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of a target; that of one which was never heard of lacks everything.
    fn share_of<'a>(
        &self,
        shares: &'a mut BTreeMap<TargetId, Share>,
        target: TargetId,
    ) -> &'a mut Share {
        let record = || TargetRecord::unknown(self.lock.page_id(), "");
        shares
            .entry(target)
            .or_insert_with(|| Share::new(record(), Need::All))
    }

    /// Calls `f` with the share of a target, which is made if there is none: that of a target which lacks everything.
    fn with<T>(&self, target: TargetId, f: impl FnOnce(&mut Share) -> T) -> T {
        f(self.share_of(&mut self.shares(), target))
    }

    /// Begins to serve a target, which `name` is the name of. What an attempt that was cut off had taken is needed again.
    pub fn enter(&self, target: TargetId, name: &str) {
        self.with(target, |share| {
            share.is_served = true;
            if share.record.name != name {
                share.record.name = name.to_owned();
                share.is_saved = false;
            }
            share.give_back();
        });
    }

    /// What a target holds, as far as this spool knows.
    pub fn published(&self, target: TargetId) -> Published {
        self.with(target, |share| Published {
            generation: share.record.generation,
            change_counter: share.record.change_counter,
        })
    }

    /// Copier step 2, and whether the target needs anything from the file.
    ///
    /// # Errors
    /// When the control page can't be mapped; nothing is lost then.
    pub fn needs_reading(&self, target: TargetId) -> Result<bool, SpoolError> {
        let mut shares = self.shares();
        self.claim(&mut shares)?;
        Ok(!self.share_of(&mut shares, target).need.is_empty())
    }

    /// Whether something waits to be published that need not be read from the file.
    pub fn has_news(&self, target: TargetId) -> bool {
        self.with(target, |share| !share.offers.is_empty()) || self.lock.head().len_bytes > 0
    }

    /// Adds chunks to what a target needs from the file.
    pub fn add_need(&self, target: TargetId, chunks: &ChunkSet) {
        let mut shares = self.shares();
        // The next copier would not know. Under the mutex, like all that goes into flight: whoever saves the records clears it.
        self.lock.add_inflight(chunks);
        self.share_of(&mut shares, target)
            .add(&Need::Chunks(chunks.clone()));
    }

    /// Makes a target need everything from the file.
    pub fn need_everything(&self, target: TargetId) {
        let mut shares = self.shares();
        self.lock.need_everything();
        self.share_of(&mut shares, target).add(&Need::All);
        self.own_up(&mut shares);
    }

    /// What the target's manifest refers to is not all there: everything is needed, and the next copier knows it too, until another is published.
    pub fn distrust(&self, target: TargetId) {
        self.with(target, |share| share.record.is_distrusted = true);
        self.need_everything(target);
    }

    /// Whether nothing may be taken from the target's manifest.
    pub fn is_distrusted(&self, target: TargetId) -> bool {
        self.with(target, |share| share.record.is_distrusted)
    }

    /// Makes every target need everything: the file is not what any of them was told.
    pub fn everything_for_everybody(&self) {
        let mut shares = self.shares();
        self.lock.need_everything();
        shares.values_mut().for_each(|share| share.add(&Need::All));
    }

    /// Copier step 3: what the target has to read from the file now. What was sealed before is older than what will be read, and is part of it.
    ///
    /// # Errors
    /// When the next log can't be made or the control page not be mapped; the target lacks what it lacked.
    pub fn begin_catch_up(&self, target: TargetId) -> Result<Need, SpoolError> {
        let mut shares = self.shares();
        self.claim(&mut shares)?;
        if self.lock.head().len_bytes > 0 {
            self.seal(&mut shares)?;
        }
        let share = self.share_of(&mut shares, target);
        share.give_back();
        share.drop_offers();
        share.reading = std::mem::take(&mut share.need);
        Ok(share.reading.clone())
    }

    /// The catch-up goes on: what has to be read once more, or too, because somebody sealed or claimed meanwhile (step 9). What it has read stays read.
    ///
    /// # Errors
    /// As [`Self::begin_catch_up`].
    pub fn go_on(&self, target: TargetId) -> Result<Need, SpoolError> {
        let mut shares = self.shares();
        self.claim(&mut shares)?;
        if self.lock.head().len_bytes > 0 {
            self.seal(&mut shares)?;
        }
        let share = self.share_of(&mut shares, target);
        share.drop_offers();
        let more = std::mem::take(&mut share.need);
        share.reading.extend(&more);
        Ok(more)
    }

    /// The catch-up that has begun reads everything.
    pub fn read_everything(&self, target: TargetId) {
        let mut shares = self.shares();
        self.lock.need_everything();
        let share = self.share_of(&mut shares, target);
        share.reading = Need::All;
        share.is_behind();
        self.own_up(&mut shares);
    }

    /// Steps 8 to 10, up to the publication: the generations to put over what the target has (and over what it has read, if `after_reading`).
    /// `None`: it needs (more) from the file first.
    ///
    /// # Errors
    /// When the next log can't be made or the control page not be mapped; the target lacks what it lacked.
    pub fn take(
        &self,
        target: TargetId,
        after_reading: bool,
    ) -> Result<Option<Replays>, SpoolError> {
        let mut shares = self.shares();
        if after_reading || self.lock.head().len_bytes > 0 {
            self.seal(&mut shares)?;
        }
        // After the seal: a writer stores its to-do before it moves the head (step 9).
        self.claim(&mut shares)?;
        let covers = self.lock.head().generation.saturating_sub(1);
        let share = self.share_of(&mut shares, target);
        if !share.need.is_empty() {
            return Ok(None);
        }
        let offers = std::mem::take(&mut share.offers);
        share.publishing = std::mem::take(&mut share.reading);
        for replay in &offers {
            share.publishing.add(replay.touched());
        }
        share.covers = covers;
        if self.keeps_taken {
            share.taken = offers.clone();
        }
        Ok(Some(Replays::new(offers)))
    }

    /// Calls `f` with what a publication to this target would carry now. Nothing is sealed, claimed, taken or settled meanwhile. To be called while
    /// nobody can write.
    ///
    /// # Errors
    /// When the control page can't be mapped, or the current log can't be read or is damaged.
    pub fn view<T>(
        &self,
        target: TargetId,
        f: impl FnOnce(&View<'_>) -> T,
    ) -> Result<T, SpoolError> {
        let shares = self.shares();
        let mut unread = self.lock.todo()?;
        let current = self.lock.current_log()?;
        let mut view = View {
            generation: 0,
            logs: current.iter().collect(),
            read: Need::default(),
            unread: Need::All,
        };
        if let Some(share) = shares.get(&target) {
            unread.extend(&share.need);
            view.unread = unread;
            view.generation = share.record.generation;
            let older = share.offers.iter().rev().chain(share.taken.iter().rev());
            view.logs.extend(older.map(Arc::as_ref));
            view.read = share.reading.clone();
            view.read.extend(&share.publishing);
        }
        Ok(f(&view))
    }

    /// What was taken is not in the store (or nobody knows): it is needed again, from the file.
    pub fn give_back(&self, target: TargetId) {
        self.with(target, Share::give_back);
    }

    /// The end of step 10: what was taken is in the store. Writes the records of all targets that lack more than theirs say, then clears `inflight`.
    ///
    /// # Errors
    /// When a record can't be written: nothing is lost, for `inflight` stays.
    pub fn settle(
        &self,
        target: TargetId,
        published: Published,
        settled_epoch: Option<u64>,
    ) -> Result<(), SpoolError> {
        let mut shares = self.shares();
        let share = self.share_of(&mut shares, target);
        share.publishing = Need::default();
        share.taken = Vec::new();
        share.record.generation = published.generation;
        share.record.change_counter = published.change_counter;
        share.record.published_ns = Some(now_ns());
        share.record.covers = share.covers;
        share.record.settled_epoch = settled_epoch.unwrap_or(share.record.settled_epoch);
        (share.record.error, share.record.failed_ns) = (None, None);
        share.record.is_distrusted = false;
        share.is_saved = false;
        share.record.behind_ns = None;
        self.lock.beat();
        self.save(&mut shares)
    }

    /// Epoch whose leftover dirty chunks have been read in quiet mode and published.
    pub fn settled_epoch(&self, target: TargetId) -> u64 {
        self.with(target, |share| share.record.settled_epoch)
    }

    /// Records that nothing dirty is left of `epoch`.
    pub fn set_settled_epoch(&self, target: TargetId, epoch: u64) {
        self.with(target, |share| {
            share.record.settled_epoch = epoch;
            share.is_saved = false;
        });
    }

    /// Tries once more to write the records, if that failed before. `false`: it failed again.
    pub fn get_unstuck(&self) -> bool {
        !self.is_stuck.load(Relaxed) || self.save(&mut self.shares()).is_ok()
    }

    /// Writes down why a target could not be served, for whoever waits for it; `None` when it could.
    ///
    /// # Errors
    /// When the record can't be written.
    pub fn note_error(&self, target: TargetId, text: Option<&str>) -> Result<(), SpoolError> {
        let mut shares = self.shares();
        let share = self.share_of(&mut shares, target);
        share.record.error = text.map(str::to_owned);
        share.record.failed_ns = text.map(|_| now_ns());
        share.is_saved = false;
        self.save(&mut shares)
    }

    /// What one target lacks by itself is written into its record at once: in flight, it would be said of all of them, for as long as a try takes.
    fn own_up(&self, shares: &mut BTreeMap<TargetId, Share>) {
        if let Err(error) = self.save(shares) {
            tracing::warn!(%error, "what a target lacks can't be written down: it counts as lacking everywhere");
        }
    }

    /// What all targets lack goes into their records, so that `inflight` need not say it.
    fn save(&self, shares: &mut BTreeMap<TargetId, Share>) -> Result<(), SpoolError> {
        let saved = self.write_records(shares);
        self.is_stuck.store(saved.is_err(), Relaxed);
        saved
    }

    fn write_records(&self, shares: &mut BTreeMap<TargetId, Share>) -> Result<(), SpoolError> {
        for (target, share) in shares.iter_mut().filter(|(_, share)| !share.is_saved) {
            let lacks = share.lacks();
            share.record.behind_ns =
                (!lacks.is_empty()).then(|| share.record.behind_ns.unwrap_or_else(now_ns));
            share.record.lacks = Lacks::of(&lacks);
            self.lock.write_target_record(*target, &share.record)?;
            share.is_saved = true;
        }
        self.lock.clear_inflight()
    }

    /// Step 2.
    fn claim(&self, shares: &mut BTreeMap<TargetId, Share>) -> Result<(), SpoolError> {
        let claimed = self.lock.claim().inspect_err(|_| {
            // Part of it may be in flight and no longer to do.
            self.lock.need_everything();
            shares.values_mut().for_each(|share| share.add(&Need::All));
        })?;
        if !claimed.is_empty() {
            shares.values_mut().for_each(|share| share.add(&claimed));
        }
        Ok(())
    }

    /// Step 8.
    fn seal(&self, shares: &mut BTreeMap<TargetId, Share>) -> Result<(), SpoolError> {
        let sealed = self.lock.seal()?;
        let replay = self.lock.replay(sealed);
        // Before the log loses its name: the next copier would not know.
        match &replay {
            Ok(replay) => self.lock.add_inflight(replay.touched()),
            Err(error) => {
                tracing::warn!(%error, "the change log can't be used: the whole database is compared");
                self.lock.need_everything();
                shares.values_mut().for_each(|share| share.add(&Need::All));
            }
        }
        let deleted = self.lock.delete(sealed);
        if let Err(error) = &deleted {
            // It is in flight now, and will be read once more than necessary.
            tracing::warn!(%error, "a change log that was taken over stays in the spool for now");
        }
        if let Ok(mut replay) = replay {
            if deleted.is_ok() {
                replay.is_unlinked();
            }
            let replay = Arc::new(replay);
            if replay.records() > 0 {
                shares.values_mut().for_each(|share| share.offer(&replay));
            }
        }
        Ok(())
    }
}

impl Share {
    fn new(record: TargetRecord, need: Need) -> Self {
        Self {
            covers: record.covers,
            record,
            need,
            reading: Need::default(),
            offers: Vec::new(),
            publishing: Need::default(),
            taken: Vec::new(),
            is_served: false,
            is_saved: false,
        }
    }

    fn add(&mut self, need: &Need) {
        self.need.extend(need);
        self.is_behind();
    }

    fn is_behind(&mut self) {
        self.is_saved = false;
        self.record.behind_ns = self.record.behind_ns.or_else(|| Some(now_ns()));
    }

    fn offer(&mut self, replay: &Arc<Replay>) {
        self.is_behind();
        let held = self.offers.iter().map(|held| held.len_bytes()).sum::<u64>();
        let bound = replay.file_len().unwrap_or(0).max(OFFERS_LEN_MIN_BYTES);
        let fits =
            self.offers.len() < OFFERS_MAX && held.saturating_add(replay.len_bytes()) <= bound;
        // Whoever has to read from the file reads after this, and what was sealed before becomes a part of that.
        let is_well = self.is_served && self.record.error.is_none();
        let is_room = fits || self.offers.is_empty();
        if is_well && self.need.is_empty() && is_room && Replay::open_count() <= OPEN_REPLAYS_MAX {
            self.offers.push(Arc::clone(replay));
        } else {
            self.drop_offers();
            self.need.add(replay.touched());
        }
    }

    /// What was offered is read from the file instead.
    fn drop_offers(&mut self) {
        for replay in std::mem::take(&mut self.offers) {
            self.need.add(replay.touched());
        }
    }

    fn give_back(&mut self) {
        let taken = [
            std::mem::take(&mut self.reading),
            std::mem::take(&mut self.publishing),
        ];
        taken.iter().for_each(|need| self.need.extend(need));
        self.taken = Vec::new();
    }

    fn lacks(&self) -> Need {
        let mut all = self.need.clone();
        all.extend(&self.reading);
        all.extend(&self.publishing);
        self.offers
            .iter()
            .for_each(|replay| all.add(replay.touched()));
        all
    }
}
