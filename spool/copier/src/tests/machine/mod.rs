//! A state machine over the real VFS, spool and copier: processes that write through SQLite, and are killed; a copier that is stopped, and dies, at
//! any point; stores that fail and forget. What a seed says happens, one thing after the other, and after each of them P2, P5, P6 and P8 are
//! checked; at the end of a case P4: everything that was committed arrives.
//!
//! `steps`: what can happen; `run` and `act`: doing it; `model` and `content`: what is right; `carrier`: the copier's process; `worker` and `mortal`: the application's.
//!
//! A case that fails prints its seed and is made smaller. `VERNEUIL_STATE_MACHINE_SEED` runs that case alone; `VERNEUIL_STATE_MACHINE_CASES` and
//! `VERNEUIL_STATE_MACHINE_FIRST_SEED` make a run longer, and another one.

mod act;
mod carrier;
mod content;
mod model;
mod mortal;
mod run;
mod steps;
mod worker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::trial;
use run::{Counts, Machine};

/// Cases of an ordinary run.
const CASES: u64 = 160;
/// Most of a case is waiting: for a process, or for the clock by which files are stamped.
const THREADS: u64 = 4;
/// The seeds of an ordinary run begin here.
const FIRST_SEED: u64 = 1;
/// How often a case that fails is made smaller.
const SHRINK_ITERS_MAX: u32 = 400;
/// An ordinary run is worth nothing if one of these never happens.
const MUST_HAPPEN: [&str; 11] = [
    "blocked by a hot journal",
    "copier failed",
    "copier stopped",
    "deaths in a call",
    "flushed",
    "foreign writes",
    "hot journals",
    "manifests",
    "moves",
    "spills",
    "states",
];

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// One case; in words what went wrong, and what it came down to.
fn run_case(seed: u64, counts: &Mutex<Counts>) -> Result<(), String> {
    let config = Config {
        cases: 1,
        max_shrink_iters: SHRINK_ITERS_MAX,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let case = (steps::setup(), steps::steps(), any::<bool>());
    let result = TestRunner::new_with_rng(config, rng).run(&case, |(setup, phrases, by_flush)| {
        let mut machine = Machine::new(&setup);
        let first = steps::Step::Put {
            who: 0,
            first: 0,
            count: setup.first_rows,
            len: 3_000,
        };
        let done = std::iter::once(&first)
            .chain(phrases.iter().flatten())
            .enumerate()
            .try_for_each(|(at, step)| {
                machine
                    .step(step)
                    .map_err(|error| format!("step {at}, {step:?}: {error}"))
            })
            .and_then(|()| {
                machine
                    .finish(by_flush)
                    .map_err(|error| format!("at the end: {error}"))
            });
        let mut counts = counts.lock().unwrap();
        for (what, times) in &machine.counts {
            *counts.entry(what).or_default() += times;
        }
        drop(counts);
        trial::end();
        done.map_err(TestCaseError::fail)
    });
    result.map_err(|error| match error {
        TestError::Fail(reason, (setup, phrases, by_flush)) => {
            let steps: Vec<String> = phrases
                .iter()
                .flatten()
                .map(|step| format!("  {step:?}"))
                .collect();
            format!(
                "{reason}\n{setup:?}, ends by {}\n{}\nVERNEUIL_STATE_MACHINE_SEED={seed} runs this case alone",
                if by_flush { "a flush" } else { "a commit" },
                steps.join("\n")
            )
        }
        TestError::Abort(reason) => reason.to_string(),
    })
}

#[test]
fn whatever_happens_what_is_published_was_committed_and_what_was_committed_arrives() {
    let counts = Mutex::new(Counts::new());
    if let Some(seed) = number("VERNEUIL_STATE_MACHINE_SEED") {
        if let Err(error) = run_case(seed, &counts) {
            panic!("{error}");
        }
        return;
    }
    let cases = number("VERNEUIL_STATE_MACHINE_CASES").unwrap_or(CASES);
    let first = number("VERNEUIL_STATE_MACHINE_FIRST_SEED").unwrap_or(FIRST_SEED);
    let next = AtomicU64::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while failure.lock().unwrap().is_none() {
                    let case = next.fetch_add(1, Ordering::SeqCst);
                    if case >= cases {
                        return;
                    }
                    if let Err(error) = run_case(first + case, &counts) {
                        let mut failure = failure.lock().unwrap();
                        failure.get_or_insert(format!("case {} of {cases}: {error}", case + 1));
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    println!("{cases} cases: {counts:?}");
    if let Some(failure) = failure.into_inner().unwrap() {
        panic!("{failure}");
    }
    if cases >= CASES {
        for what in MUST_HAPPEN {
            assert!(counts.contains_key(what), "no {what} in {cases} cases");
        }
    }
}
