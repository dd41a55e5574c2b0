//! The table of runs: who acts in each and what may happen to them; `guards.rs` names them, `main.rs` runs them.

use crate::configurations::Configuration;
use crate::guards::Off;
use crate::state::Budget;

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

/// A run stops here, with an error: it has to end, and 40 million states are 3 GiB.
const STATES_MAX: usize = 40_000_000;

const PLAIN: Configuration = Configuration {
    name: "",
    transactions: [2, 0],
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
    large: false,
    off: Off::NONE,
};

/// Whatever one target seals the other one needs: each catch-up that is overtaken goes on.
const SMALL_BOUND: Configuration = Configuration {
    targets: 2,
    offers_bound_zero: true,
    begun: true,
    coarse: true,
    ..PLAIN
};

/// In the order of what they cost.
pub const CONFIGURATIONS: &[Configuration] = &[
    Configuration {
        name: "one writer",
        ..PLAIN
    },
    Configuration {
        name: "exclusive mode",
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
        budget: budget! { kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "lost log",
        budget: budget! { lose_log: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "overflow",
        budget: budget! { overflow: 1 },
        ..PLAIN
    },
    Configuration {
        name: "overflow, a copier dies",
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
        budget: budget! { failed_put: 1, late_put: 1 },
        ..PLAIN
    },
    Configuration {
        name: "late PUT, a copier dies",
        budget: budget! { late_put: 1, kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "reboot, late PUT",
        begun: true,
        budget: budget! { reboot: 1, late_put: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, a writer dies, sizes",
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
        ..SMALL_BOUND
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
        targets: 2,
        coarse: true,
        budget: budget! { overflow: 1 },
        large: true,
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
        exclusive: true,
        foreign: 1,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "lost folder, late PUT, two copiers",
        copiers: 2,
        coarse: true,
        begun: true,
        budget: budget! { lose_folder: 1, late_put: 1, kill_copier: 1 },
        large: true,
        ..PLAIN
    },
    Configuration {
        name: "exclusive, a writer dies",
        exclusive: true,
        budget: budget! { kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, a copier dies twice",
        exclusive: true,
        begun: true,
        budget: budget! { kill_copier: 2 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, lost folder",
        exclusive: true,
        begun: true,
        budget: budget! { lose_folder: 1, kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two targets, exclusive, a copier dies",
        exclusive: true,
        targets: 2,
        coarse: true,
        begun: true,
        budget: budget! { kill_copier: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two targets, exclusive, a record is lost",
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
        exclusive: true,
        begun: true,
        budget: budget! { overflow: 1, kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "lost folder, two targets, two copiers",
        exclusive: true,
        targets: 2,
        copiers: 2,
        begun: true,
        coarse: true,
        sections: true,
        budget: budget! { lose_folder: 1, kill_copier: 1 },
        large: true,
        states_max: 30_000_000,
        ..PLAIN
    },
    Configuration {
        name: "two targets, one overflows",
        transactions: [1, 0],
        targets: 2,
        coarse: true,
        budget: budget! { overflow: 1 },
        ..PLAIN
    },
    Configuration {
        name: "overflow, sizes",
        resize: true,
        budget: budget! { overflow: 1 },
        ..PLAIN
    },
    Configuration {
        name: "foreign, overflow",
        foreign: 1,
        begun: true,
        budget: budget! { overflow: 1 },
        ..PLAIN
    },
    Configuration {
        name: "overflow, a writer dies",
        begun: true,
        budget: budget! { overflow: 1, kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive, two overflows",
        transactions: [3, 0],
        exclusive: true,
        begun: true,
        budget: budget! { overflow: 2 },
        ..PLAIN
    },
    Configuration {
        name: "exclusive from the start, overflow, a writer dies",
        exclusive: true,
        budget: budget! { overflow: 1, kill_writer: 1 },
        ..PLAIN
    },
    Configuration {
        name: "two writers, two overflows, one dies",
        transactions: [2, 1],
        begun: true,
        budget: budget! { overflow: 2, kill_writer: 1 },
        large: true,
        states_max: 30_000_000,
        ..PLAIN
    },
    Configuration {
        name: "two targets, small bound, exclusive",
        exclusive: true,
        ..SMALL_BOUND
    },
    Configuration {
        name: "two targets, small bound, a writer dies",
        exclusive: true,
        sections: true,
        budget: budget! { kill_writer: 1 },
        ..SMALL_BOUND
    },
    Configuration {
        name: "two targets, small bound, foreign",
        transactions: [1, 0],
        foreign: 1,
        sections: true,
        ..SMALL_BOUND
    },
    Configuration {
        name: "two targets, small bound, three transactions",
        transactions: [3, 0],
        sections: true,
        large: true,
        states_max: 30_000_000,
        ..SMALL_BOUND
    },
];
