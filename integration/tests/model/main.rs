//! The protocol of docs/PROTOCOL.md as an explicit-state model: `writer/`, `foreign.rs`, `copier/` and `misfortunes.rs` are the actors, `checker.rs`
//! visits what they can reach in each of `runs.rs`, and `guards.rs` says which counterexample each guard prevents.
//!
//! Three things can be asked for by environment variable:
//! `VERNEUIL_MODEL=large` also runs the configurations that are too large for every change (about ten minutes, 4 GiB);
//! `VERNEUIL_MODEL_ONLY=text` runs only the configurations and guards whose names contain the text;
//! `VERNEUIL_MODEL_TRACE=1` prints the counterexample of each guard, step by step. All of them want `--nocapture` and `--release`.

mod checker;
mod configurations;
mod copier;
mod foreign;
mod guards;
mod hash;
mod image;
mod misfortunes;
mod runs;
mod state;
mod steps;
mod tidy;
mod writer;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use checker::{Checker, Outcome, Verdict};
use configurations::Configuration;
use guards::{Expected, GUARDS, Guard, Off};
use runs::CONFIGURATIONS;

/// Runs at once: a CI machine has two cores, and a large run holds 1 GiB.
const RUNS_AT_ONCE: usize = 2;

/// One run: a configuration with all guards on, or with one off.
#[derive(Clone, Copy)]
struct Job {
    configuration: Configuration,
    off: Option<(Guard, &'static str, &'static str, Expected)>,
}

impl Job {
    fn name(&self) -> String {
        match self.off {
            None => self.configuration.name.to_owned(),
            Some((guard, step, _, _)) => {
                format!("without {guard:?} ({step}): {}", self.configuration.name)
            }
        }
    }

    /// `None` if the run ended as it has to.
    fn complaint(&self, outcome: &Outcome) -> Option<String> {
        let name = self.name();
        match (
            &outcome.verdict,
            self.off
                .map(|(_, _, sentence, expected)| (sentence, expected)),
        ) {
            (Verdict::Passed, None | Some((_, Expected::NotRefuted(..)))) => None,
            (Verdict::Refuted { .. }, Some((_, Expected::Refuted(_)))) => None,
            // Known to be larger: what was visited of it is all right.
            (Verdict::Limit, None) if self.configuration.large => None,
            (Verdict::Limit, _) => Some(format!(
                "{name}: more states than its limit; make the configuration smaller"
            )),
            (Verdict::Refuted { what, trace }, None) => Some(format!(
                "{name}: the protocol is wrong: {what}\n  {}",
                trace.join("\n  ")
            )),
            (
                Verdict::Refuted { what, trace },
                Some((sentence, Expected::NotRefuted(_, reason))),
            ) => Some(format!(
                "{name}: listed as not refuted ({reason}), but without \"{sentence}\" there is: {what}\n  {}",
                trace.join("\n  ")
            )),
            (Verdict::Passed, Some((sentence, Expected::Refuted(_)))) => Some(format!(
                "{name}: no counterexample any more without \"{sentence}\": list the guard as not refuted, or mend the model"
            )),
        }
    }
}

fn named(name: &str) -> Option<Configuration> {
    CONFIGURATIONS
        .iter()
        .find(|configuration| configuration.name == name)
        .copied()
}

fn jobs() -> VecDeque<Job> {
    let is_large = std::env::var("VERNEUIL_MODEL").is_ok_and(|value| value == "large");
    let only = std::env::var("VERNEUIL_MODEL_ONLY").unwrap_or_default();
    let whole = CONFIGURATIONS
        .iter()
        .filter(|configuration| is_large || !configuration.large)
        .map(|&configuration| Job {
            configuration,
            off: None,
        });
    let without = GUARDS.iter().filter_map(|&entry| {
        let (guard, _, _, expected) = entry;
        let (Expected::Refuted(name) | Expected::NotRefuted(name, _)) = expected;
        let configuration = Configuration {
            off: Off::only(guard),
            ..named(name)?
        };
        Some(Job {
            configuration,
            off: Some(entry),
        })
    });
    whole
        .chain(without)
        .filter(|job| job.name().contains(&only))
        .collect()
}

fn run(job: &Job) -> Option<String> {
    let begun = Instant::now();
    let outcome = Checker::new(&job.configuration).run();
    let verdict = match &outcome.verdict {
        Verdict::Passed => "passed".to_owned(),
        Verdict::Limit => "LIMIT".to_owned(),
        Verdict::Refuted { what, .. } => format!("refuted: {what}"),
    };
    println!(
        "{:9} states, depth {:3}, {:5.1} s  {}: {verdict}",
        outcome.states,
        outcome.depth,
        begun.elapsed().as_secs_f64(),
        job.name(),
    );
    if std::env::var_os("VERNEUIL_MODEL_TRACE").is_some()
        && let (Verdict::Refuted { trace, .. }, Some(_)) = (&outcome.verdict, job.off)
    {
        println!("  {}", trace.join("\n  "));
    }
    job.complaint(&outcome)
}

#[test]
fn every_guard_names_a_configuration_and_every_name_is_one() {
    for (guard, _, _, expected) in GUARDS {
        let (Expected::Refuted(name) | Expected::NotRefuted(name, _)) = expected;
        let count = CONFIGURATIONS
            .iter()
            .filter(|run| run.name == *name)
            .count();
        assert_eq!(count, 1, "{guard:?} names {name}");
    }
}

#[test]
fn the_protocol_holds_in_every_configuration_and_every_guard_is_needed_or_listed() {
    let queue = Mutex::new(jobs());
    let complaints = Mutex::new(Vec::new());
    let next = || queue.lock().ok().and_then(|mut jobs| jobs.pop_front());
    thread::scope(|scope| {
        for _ in 0..RUNS_AT_ONCE {
            scope.spawn(|| {
                while let Some(job) = next() {
                    if let (Some(complaint), Ok(mut all)) = (run(&job), complaints.lock()) {
                        all.push(complaint);
                    }
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap_or_default();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
