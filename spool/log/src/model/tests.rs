//! The models: what each demands, and how far it is explored. `casts` says who runs.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use loom::model::Builder;

use crate::model::casts;
use crate::model::world::Place;

/// Branches of one execution: more would be a loop without an end.
const BRANCHES_MAX: usize = 20_000;

/// Who runs.
#[derive(Clone, Copy)]
pub(super) enum Cast {
    /// Everybody lives.
    Living(fn(&Place)),
    /// Somebody dies after so many accesses; `false`, if it was done before.
    Dying(fn(&Place, u32) -> bool),
}

/// A model: its name, how often a thread may be preempted, and who runs.
pub(super) struct Model {
    pub(super) name: &'static str,
    preemptions: usize,
    cast: Cast,
}

pub(super) const MODELS: [Model; 11] = [
    Model {
        name: "a_commit_that_meets_a_seal_is_published_once",
        preemptions: 2,
        cast: Cast::Living(casts::seal),
    },
    Model {
        name: "a_catch_up_beside_commits_mixes_nothing",
        preemptions: 2,
        cast: Cast::Living(casts::catch_up),
    },
    Model {
        name: "what_overflows_beside_a_seal_is_claimed_after_it",
        preemptions: 2,
        cast: Cast::Living(casts::overflow),
    },
    Model {
        name: "two_writers_in_turn_and_a_copier",
        preemptions: 2,
        cast: Cast::Living(casts::two_writers),
    },
    Model {
        name: "under_a_kept_exclusive_lock_the_epoch_tells_who_writes",
        preemptions: 2,
        cast: Cast::Living(casts::exclusive),
    },
    Model {
        name: "two_targets_take_what_either_seals",
        preemptions: 2,
        cast: Cast::Living(casts::two_targets),
    },
    Model {
        name: "no_wake_up_is_lost",
        preemptions: 2,
        cast: Cast::Living(casts::wake_up),
    },
    Model {
        name: "a_database_grows_while_it_is_copied",
        preemptions: 2,
        cast: Cast::Living(casts::growth),
    },
    Model {
        name: "a_copier_that_dies_anywhere_forgets_nothing",
        preemptions: 1,
        cast: Cast::Dying(casts::dying_copier),
    },
    Model {
        name: "a_writer_that_dies_anywhere_loses_nothing",
        preemptions: 1,
        cast: Cast::Dying(casts::dying_writer),
    },
    Model {
        name: "an_exclusive_writer_that_dies_anywhere_loses_nothing",
        preemptions: 1,
        cast: Cast::Dying(casts::dying_exclusive),
    },
];

/// Goes through every interleaving of a model; the number of executions.
pub(super) fn explore(model: &Model) -> u64 {
    explore_up_to(model, None)
}

/// The same, for a look at what there is.
pub(super) fn explore_up_to(model: &Model, executions_max: Option<usize>) -> u64 {
    let check = |body: Box<dyn Fn(&Place) + Send + Sync>| {
        let place = Place::new();
        let mut builder = Builder::new();
        builder.max_branches = BRANCHES_MAX;
        builder.preemption_bound = Some(model.preemptions);
        builder.max_permutations = executions_max;
        builder.check(move || body(&place));
    };
    let begun = Instant::now();
    let executions = Arc::new(AtomicU64::new(0));
    match model.cast {
        Cast::Living(cast) => {
            let executions = executions.clone();
            check(Box::new(move |place| {
                executions.fetch_add(1, Relaxed);
                cast(place);
            }));
        }
        Cast::Dying(cast) => {
            for accesses in 0.. {
                let deaths = Arc::new(AtomicU64::new(0));
                let (executions, counted) = (executions.clone(), deaths.clone());
                check(Box::new(move |place| {
                    executions.fetch_add(1, Relaxed);
                    counted.fetch_add(u64::from(cast(place, accesses)), Relaxed);
                }));
                if deaths.load(Relaxed) == 0 {
                    break;
                }
            }
        }
    }
    let executions = executions.load(Relaxed);
    println!(
        "{}: {executions} executions in {:?}",
        model.name,
        begun.elapsed()
    );
    executions
}

fn explore_named(name: &str) {
    let model = MODELS.iter().find(|model| model.name == name);
    let executions = explore(model.expect("a model of that name"));
    assert!(
        executions > 50,
        "only {executions} executions: nobody met anybody"
    );
}

macro_rules! tests {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            explore_named(stringify!($name));
        }
    )*};
}

tests!(
    a_commit_that_meets_a_seal_is_published_once,
    a_catch_up_beside_commits_mixes_nothing,
    what_overflows_beside_a_seal_is_claimed_after_it,
    two_writers_in_turn_and_a_copier,
    under_a_kept_exclusive_lock_the_epoch_tells_who_writes,
    two_targets_take_what_either_seals,
    no_wake_up_is_lost,
    a_database_grows_while_it_is_copied,
    a_copier_that_dies_anywhere_forgets_nothing,
    a_writer_that_dies_anywhere_loses_nothing,
    an_exclusive_writer_that_dies_anywhere_loses_nothing,
);
