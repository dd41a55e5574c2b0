//! Who acts in each run and what may happen to them; `main.rs` hands these to `checker.rs`.

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
    begun: false,
    coarse: false,
    sections: false,
    budget: NO_BUDGET,
    states_max: STATES_MAX,
    off: Off::NONE,
};

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

/// In the order of what they cost.
pub const CONFIGURATIONS: &[Configuration] = &[
    Configuration {
        name: "one writer",
        transactions: [2, 0],
        ..PLAIN
    },
    Configuration {
        name: "exclusive mode",
        transactions: [2, 0],
        exclusive: true,
        roll_back: true,
        ..PLAIN
    },
    Configuration {
        name: "a writer dies",
        transactions: [1, 0],
        roll_back: true,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "clock",
        transactions: [1, 0],
        foreign: 1,
        coarse_clock: true,
        ..PLAIN
    },
    Configuration {
        name: "foreign",
        transactions: [1, 0],
        foreign: 1,
        ..PLAIN
    },
    Configuration {
        name: "foreign twice",
        transactions: [0, 0],
        foreign: 2,
        ..PLAIN
    },
    Configuration {
        name: "two writers",
        transactions: [1, 1],
        ..PLAIN
    },
    Configuration {
        name: "sizes",
        transactions: [2, 0],
        resize: true,
        ..PLAIN
    },
    Configuration {
        name: "lost record",
        transactions: [1, 0],
        budget: budget! { lose_record: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "a copier dies",
        transactions: [2, 0],
        budget: budget! { kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "lost log",
        transactions: [2, 0],
        budget: budget! { lose_log: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "overflow",
        transactions: [2, 0],
        budget: budget! { overflow: 1 },
        ..PLAIN
    },
    Configuration {
        name: "overflow, a copier dies",
        transactions: [2, 0],
        budget: budget! { overflow: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "three transactions",
        transactions: [3, 0],
        ..PLAIN
    },
    Configuration {
        name: "writer and copier die",
        transactions: [1, 0],
        roll_back: true,
        budget: budget! { kill_writer: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "a writer dies, and goes on",
        transactions: [2, 0],
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "foreign dies",
        transactions: [1, 0],
        foreign: 1,
        budget: budget! { kill_foreign: 1 },
        ..PLAIN
    },
    Configuration {
        name: "foreign, a writer dies",
        transactions: [1, 0],
        foreign: 1,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "foreign, sizes",
        transactions: [1, 0],
        foreign: 1,
        resize: true,
        ..PLAIN
    },
    Configuration {
        name: "failing store",
        transactions: [2, 0],
        budget: budget! { failed_put: 1, late_put: 1 },
        ..PLAIN
    },
    Configuration {
        name: "late PUT, a copier dies",
        transactions: [2, 0],
        budget: budget! { late_put: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "reboot, late PUT",
        transactions: [2, 0],
        begun: true,
        budget: budget! { reboot: 1, late_put: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, a writer dies, sizes",
        transactions: [2, 0],
        exclusive: true,
        roll_back: true,
        resize: true,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "lost folder",
        transactions: [1, 0],
        copiers: 2,
        release: true,
        budget: budget! { lose_folder: 1 },
        ..PLAIN
    },
    Configuration {
        name: "lost folder, writers",
        transactions: [2, 0],
        budget: budget! { lose_folder: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two targets",
        transactions: [1, 0],
        targets: 2,
        coarse: true,
        release: true,
        ..PLAIN
    },
    Configuration {
        name: "two targets, B fails",
        transactions: [1, 0],
        targets: 2,
        coarse: true,
        budget: budget! { failed_put: 1, late_put: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two targets, small bound",
        transactions: [2, 0],
        targets: 2,
        coarse: true,
        begun: true,
        offers_bound_zero: true,
        ..PLAIN
    },
    Configuration {
        name: "two targets, a copier dies",
        transactions: [1, 0],
        targets: 2,
        coarse: true,
        budget: budget! { kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two targets, foreign",
        transactions: [1, 0],
        foreign: 1,
        targets: 2,
        coarse: true,
        begun: true,
        ..PLAIN
    },
    Configuration {
        name: "two targets, overflow",
        transactions: [2, 0],
        targets: 2,
        coarse: true,
        budget: budget! { overflow: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two writers, I/O error",
        transactions: [1, 1],
        roll_back: true,
        budget: budget! { io_error: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two writers, one dies",
        transactions: [1, 1],
        roll_back: true,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "foreign, exclusive",
        transactions: [2, 0],
        exclusive: true,
        foreign: 1,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "lost folder, late PUT, two copiers",
        transactions: [2, 0],
        copiers: 2,
        coarse: true,
        begun: true,
        budget: budget! { lose_folder: 1, late_put: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, a writer dies",
        transactions: [2, 0],
        exclusive: true,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, a copier dies twice",
        transactions: [2, 0],
        exclusive: true,
        begun: true,
        budget: budget! { kill_copier: 2 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, lost folder",
        transactions: [2, 0],
        exclusive: true,
        begun: true,
        budget: budget! { lose_folder: 1, kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two targets, exclusive, a copier dies",
        transactions: [2, 0],
        exclusive: true,
        targets: 2,
        coarse: true,
        begun: true,
        budget: budget! { kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two targets, exclusive, a record is lost",
        transactions: [2, 0],
        exclusive: true,
        targets: 2,
        coarse: true,
        begun: true,
        budget: budget! { kill_copier: 1, lose_record: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive and another, one dies",
        transactions: [1, 1],
        exclusive: true,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, overflow, a writer dies",
        transactions: [2, 0],
        exclusive: true,
        begun: true,
        budget: budget! { overflow: 1, kill_writer: 1 },
        ..PLAIN
    },
];
