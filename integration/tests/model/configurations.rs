//! Who acts in each run and what may happen to them; `main.rs` hands these to `checker.rs`.

use crate::guards::Off;
use crate::state::{ALL, Budget, Control, Copier, Image, NONE, State, Writer};

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
    pub budget: Budget,
    pub states_max: usize,
    pub off: Off,
}

/// Misfortunes, by name: `budget! { kill_writer: 1 }`.
macro_rules! budget {
    ($($what:ident: $count:literal),*) => {
        Budget { $($what: $count,)* ..NO_BUDGET }
    };
}

const NO_BUDGET: Budget = Budget {
    kill_writer: 0,
    kill_copier: 0,
    kill_foreign: 0,
    overflow: 0,
    io_error: 0,
    late_put: 0,
    failed_put: 0,
    lose_folder: 0,
    lose_log: 0,
    lose_record: 0,
    reboot: 0,
};

/// A run in CI stops here with an error: it has to end.
const STATES_MAX: usize = 6_000_000;

const PLAIN: Configuration = Configuration {
    name: "",
    transactions: [2, 1],
    foreign: 0,
    exclusive: false,
    roll_back: false,
    resize: false,
    targets: 1,
    copiers: 1,
    release: false,
    offers_bound_zero: false,
    coarse_clock: false,
    budget: NO_BUDGET,
    states_max: STATES_MAX,
    off: Off::NONE,
};

impl Configuration {
    /// The database as created, before anything was published.
    pub fn first(&self) -> State {
        let file = Image { pages: [0; 3], counter: 0, size: 3 };
        let mut state = State {
            file,
            committed: 1,
            linked: 0,
            budget: self.budget,
            ..State::default()
        };
        state.history[0] = file;
        state.controls[0] = Control { todo: ALL, ..Control::default() };
        for me in 0..2 {
            let is_there = self.transactions[me] > 0;
            let mapped = if is_there { 0 } else { NONE };
            state.writers[me] = Writer { mapped, ..Writer::default() };
            state.copiers[me] = Copier { mapped: NONE, ..Copier::default() };
        }
        state
    }
}

pub const CONFIGURATIONS: &[Configuration] = &[
    Configuration { name: "plain", transactions: [1, 1], ..PLAIN },
];
