//! What a publication would carry if it came now, chunk by chunk: the state of `ledger` as the self-check of `verneuil-copier` compares it with the file.
//!
//! Newer overrides older: current log, what was sealed and waits, what is being published, what was read from the file, last manifest. But a chunk
//! that is to do may be newer in the file than in any log (an overflow, a foreign commit, a dead writer): nothing is known about it.

use crate::drain::Need;
use crate::replay::Replay;

/// Where a publication would get a chunk from.
#[derive(Debug)]
pub enum Origin<'a> {
    /// From this change log.
    Log(&'a Replay),
    /// It is as in the last manifest.
    Manifest,
    /// From the database file.
    File,
}

/// What a publication to one target would carry now.
#[derive(Debug)]
pub struct View<'a> {
    /// Number of the last manifest that the target holds; 0 for none. A newer one may be there already.
    pub(crate) generation: u64,
    /// Newest first.
    pub(crate) logs: Vec<&'a Replay>,
    /// Read from the file, or about to be, but older than the logs.
    pub(crate) read: Need,
    /// To be read from the file, whatever the logs say.
    pub(crate) unread: Need,
}

impl View<'_> {
    /// Number of the last manifest.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where this chunk, which lies below the file's end, would come from.
    pub fn origin(&self, chunk: u32) -> Origin<'_> {
        if self.unread.contains(chunk) {
            return Origin::File;
        }
        match self.logs.iter().find(|log| log.contains(chunk)) {
            Some(log) => Origin::Log(log),
            None if self.read.contains(chunk) => Origin::File,
            None => Origin::Manifest,
        }
    }

    /// Where length and change counter of the file would come from.
    pub fn state_origin(&self) -> Origin<'_> {
        if !self.unread.is_empty() {
            return Origin::File;
        }
        match self.logs.iter().find(|log| log.records() > 0) {
            Some(log) => Origin::Log(log),
            None if !self.read.is_empty() => Origin::File,
            None => Origin::Manifest,
        }
    }
}
