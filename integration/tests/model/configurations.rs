//! What a run may hold, and its first state; `runs.rs` is the table of them, `main.rs` hands them to `checker.rs`.

use crate::guards::Off;
use crate::image::{ALL, Image};
use crate::state::{Budget, Control, Copier, NONE, State, Writer};

/// One run: bounded by the number of transactions and of each misfortune.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    pub name: &'static str,
    /// Transactions of either writer of ours, and of the foreign one.
    pub transactions: [u8; 2],
    pub foreign: u8,
    /// Writer 1 keeps EXCLUSIVE.
    pub exclusive: bool,
    pub roll_back: bool,
    /// Transactions make the file longer and shorter.
    pub resize: bool,
    pub targets: usize,
    /// Copier processes.
    pub copiers: usize,
    /// An idle copier gives its lock up.
    pub release: bool,
    /// No offers for a target that did not seal itself.
    pub offers_bound_zero: bool,
    /// A write in the same tick of the clock keeps the modification time.
    pub coarse_clock: bool,
    /// A copier has published the first state, and runs.
    pub begun: bool,
    /// Writers write under EXCLUSIVE in one step, pages 2 and 1 in turn, and a slice is one step: for runs about what targets do to one another.
    pub coarse: bool,
    /// What a copier does under its mutex is one step.
    pub sections: bool,
    pub budget: Budget,
    pub states_max: usize,
    /// Too large for every change, but for its mutant.
    pub large: bool,
    pub off: Off,
}

impl Configuration {
    /// The database as created, before anything was published.
    pub fn first(&self) -> State {
        let file = Image {
            pages: [0; 3],
            counter: 0,
            size: 3,
        };
        let mut state = State {
            file,
            committed: 1,
            linked: 0,
            budget: self.budget,
            ..State::default()
        };
        state.history[0] = file;
        state.controls[0] = Control {
            todo: ALL,
            ..Control::default()
        };
        for me in 0..2 {
            let is_there = self.transactions[me] > 0;
            let mapped = if is_there { 0 } else { NONE };
            state.writers[me] = Writer {
                mapped,
                ..Writer::default()
            };
            state.copiers[me] = Copier {
                mapped: NONE,
                ..Copier::default()
            };
        }
        state
    }
}
