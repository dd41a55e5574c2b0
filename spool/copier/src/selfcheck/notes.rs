//! The committed states of one database, as transactions of this process left them: every manifest that this process publishes has to be one. Filled by
//! `mod.rs` at the end of each transaction, asked by `pass` after each publication.
//!
//! Other processes' states and foreign ones are not known, so a manifest counts only if its change counter and length are those of a noted
//! state, and nobody else has written in between: the epochs of the control page tell about other processes of ours, `pass` about strangers.

use std::collections::{HashMap, VecDeque};

use verneuil_format::ChunkId;

/// States that are remembered per database. What is published is seldom more than an interval old; with a store that is away it may be older than
/// these, and is then unknown.
const STATES_MAX: usize = 16_384;

/// One state of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) change_counter: u32,
    pub(crate) file_len: u64,
    /// Hash of the ids of all chunks.
    pub(crate) hash: ChunkId,
}

impl State {
    pub(crate) fn new(change_counter: u32, file_len: u64, ids: &[ChunkId]) -> Self {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
        Self {
            change_counter,
            file_len,
            hash: ChunkId::of(&ids),
        }
    }

    fn key(&self) -> (u32, u64) {
        (self.change_counter, self.file_len)
    }
}

/// What a published state is to the notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Noted,
    /// Somebody else's, or too old.
    Unknown,
    /// A transaction has ended that may be noted in a moment.
    NotYet,
    /// Transactions left the file with this counter and length, but never like this.
    Wrong,
}

#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Of the last transaction that was noted.
    epoch: u64,
    /// Counter of the first state after a gap: somebody else's may have the same one.
    first_counter: Option<u32>,
    states: HashMap<(u32, u64), Vec<ChunkId>>,
    order: VecDeque<State>,
}

impl Notes {
    /// Notes the state after a transaction, whose end has set this epoch.
    pub(crate) fn add(&mut self, epoch: u64, state: State) {
        if self.first_counter.is_none() || epoch != self.epoch + 2 {
            self.forget();
            self.first_counter = Some(state.change_counter);
        }
        self.epoch = epoch;
        let same = self.states.entry(state.key()).or_default();
        if !same.contains(&state.hash) {
            same.push(state.hash);
            self.order.push_back(state);
        }
        if self.order.len() > STATES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            // All of that counter and length: a part of them would make the rest look wrong.
            self.states.remove(&oldest.key());
            self.order.retain(|state| state.key() != oldest.key());
        }
    }

    /// Somebody else has changed the file.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// `epoch`: of the last transaction that had ended when `published` was.
    pub(crate) fn verdict(&self, epoch: u64, published: &State) -> Verdict {
        let same = self.states.get(&published.key());
        match (same, self.first_counter) {
            (Some(same), _) if same.contains(&published.hash) => Verdict::Noted,
            _ if self.epoch < epoch => Verdict::NotYet,
            (Some(_), Some(first)) if published.change_counter > first => Verdict::Wrong,
            _ => Verdict::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(change_counter: u32, content: u8) -> State {
        State::new(change_counter, 10, &[ChunkId::of(&[content])])
    }

    #[test]
    fn only_a_state_that_nobody_else_can_have_left_is_wrong() {
        let mut notes = Notes::default();
        notes.add(2, state(1, 1));
        notes.add(4, state(2, 2));
        // A roll-back after a spill, or exclusive locking mode: another state with the same counter.
        notes.add(6, state(2, 3));
        assert_eq!(notes.verdict(6, &state(2, 2)), Verdict::Noted);
        assert_eq!(notes.verdict(6, &state(2, 3)), Verdict::Noted);
        assert_eq!(notes.verdict(6, &state(2, 4)), Verdict::Wrong);
        assert_eq!(notes.verdict(8, &state(2, 4)), Verdict::NotYet);
        assert_eq!(notes.verdict(6, &state(1, 4)), Verdict::Unknown);
        assert_eq!(notes.verdict(6, &state(3, 4)), Verdict::Unknown);
        // Another process has written in between.
        notes.add(10, state(4, 5));
        assert_eq!(notes.verdict(10, &state(2, 4)), Verdict::Unknown);
        assert_eq!(notes.verdict(10, &state(4, 6)), Verdict::Unknown);
    }

    #[test]
    fn old_states_become_unknown_and_never_wrong() {
        let mut notes = Notes::default();
        for n in 0..STATES_MAX as u32 + 10 {
            notes.add(u64::from(n) * 2 + 2, state(n / 2, (n % 251) as u8));
        }
        let epoch = notes.epoch;
        assert_eq!(notes.verdict(epoch, &state(3, 250)), Verdict::Unknown);
        assert!(notes.order.len() <= STATES_MAX);
    }
}
