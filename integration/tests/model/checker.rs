//! Visits every state that a configuration can reach, breadth first, and looks for what must never be; `main.rs` calls it.
//!
//! A state is remembered by 64 bits of hash and its parent's, so that a trace can be walked again. Steps that only touch a target's own
//! memory are taken at once with the step before them: nobody can see the moment between.

use std::collections::{HashMap, HashSet};

use crate::configurations::Configuration;
use crate::copier::{process_steps, target_steps};
use crate::guards::{Guard, Off};
use crate::hash::{Keyed, key};
use crate::state::{Bad, CopierAt, ForeignAt, NONE, State, TargetAt, WriterAt};
use crate::steps::{Step, Steps};
use crate::tidy::tidy;
use crate::{foreign, misfortunes, writer};

/// Steps within which the copier alone must have published a quiet database; it needs about 60.
const QUIET_STEPS_MAX: usize = 400;

/// What a run found.
pub enum Verdict {
    Passed,
    Limit,
    Refuted { what: String, trace: Vec<String> },
}

pub struct Outcome {
    pub states: usize,
    pub depth: usize,
    pub verdict: Verdict,
}

pub struct Checker<'a> {
    configuration: &'a Configuration,
    /// The same without misfortunes, for the copier alone.
    calm: Configuration,
    parents: HashMap<u64, u64, Keyed>,
    arrives: HashSet<u64, Keyed>,
}

impl<'a> Checker<'a> {
    pub fn new(configuration: &'a Configuration) -> Self {
        let calm = Configuration {
            release: false,
            ..*configuration
        };
        Checker {
            configuration,
            calm,
            parents: HashMap::default(),
            arrives: HashSet::default(),
        }
    }

    pub fn run(mut self) -> Outcome {
        let first = self.first();
        let mut frontier = vec![first];
        let mut depth = 0;
        self.parents.insert(key(&first), 0);
        while !frontier.is_empty() {
            let mut following = Vec::new();
            for state in &frontier {
                if let Some((what, tail)) = self.unpublished(state) {
                    return self.refuted(what, state, tail, depth);
                }
                let from = key(state);
                for step in self.steps(state).0 {
                    let to = key(&step.next);
                    if self.parents.contains_key(&to) {
                        continue;
                    }
                    self.parents.insert(to, from);
                    if step.next.bad != Bad::Nothing {
                        let what = format!("{:?}", step.next.bad);
                        return self.refuted(what, &step.next, Vec::new(), depth);
                    }
                    following.push(step.next);
                }
                if self.parents.len() > self.configuration.states_max {
                    return self.outcome(depth, Verdict::Limit);
                }
            }
            frontier = following;
            depth += 1;
        }
        self.outcome(depth, Verdict::Passed)
    }

    /// The first state; what the copier does before anything happens is done, if it began earlier.
    fn first(&self) -> State {
        let mut first = self.configuration.first();
        if self.configuration.begun {
            let budget = std::mem::take(&mut first.budget);
            let calm = Configuration {
                off: Off::NONE,
                ..self.calm
            };
            while let Some(step) = alone(&first, None, &calm) {
                first = step.next;
            }
            first.budget = budget;
        }
        tidy(&mut first, self.configuration);
        first
    }

    fn outcome(&self, depth: usize, verdict: Verdict) -> Outcome {
        Outcome {
            states: self.parents.len(),
            depth,
            verdict,
        }
    }

    fn refuted(&self, what: String, state: &State, tail: Vec<String>, depth: usize) -> Outcome {
        let mut trace = self.trace(state);
        trace.extend(tail);
        self.outcome(depth, Verdict::Refuted { what, trace })
    }

    fn steps(&self, state: &State) -> Steps {
        let mut steps = Steps::default();
        for me in 0..2 {
            let from = steps.0.len();
            writer::steps(state, me, self.configuration, &mut steps);
            for step in &mut steps.0[from..] {
                writer::go_on(&mut step.next, me, self.configuration);
            }
        }
        foreign::steps(state, self.configuration, &mut steps);
        misfortunes::steps(state, self.configuration, &mut steps);
        for process in 0..self.configuration.copiers {
            let from = steps.0.len();
            crate::copier::steps(state, process, self.configuration, &mut steps);
            for step in &mut steps.0[from..] {
                go_on(&mut step.next, process, self.configuration);
            }
        }
        for step in &mut steps.0 {
            tidy(&mut step.next, self.configuration);
        }
        steps
    }

    /// A database that nobody writes is published in full by the copier alone, at each target without the other.
    fn unpublished(&mut self, state: &State) -> Option<(String, Vec<String>)> {
        if !is_quiet(state) {
            return None;
        }
        if self.configuration.targets == 1 {
            return self.stays_unpublished(state, None);
        }
        [None, Some(0), Some(1)]
            .into_iter()
            .find_map(|frozen| self.stays_unpublished(state, frozen))
    }

    fn stays_unpublished(
        &mut self,
        state: &State,
        frozen: Option<usize>,
    ) -> Option<(String, Vec<String>)> {
        let mut now = *state;
        (now.budget, now.fresh) = (Default::default(), false);
        now.late = Default::default();
        let (mut seen, mut told) = (Vec::new(), Vec::new());
        let salt = frozen.map_or(0, |target| 0x5bd1_e995 * (target as u64 + 1));
        while seen.len() < QUIET_STEPS_MAX {
            let mark = key(&now) ^ salt;
            if self.arrives.contains(&mark) {
                self.arrives.extend(seen);
                return None;
            }
            seen.push(mark);
            let Some(step) = alone(&now, frozen, &self.calm) else {
                break;
            };
            now = step.next;
            told.push(format!("{}: {}", step.actor, step.what));
            if now.bad != Bad::Nothing {
                return Some((format!("{:?}, by the copier alone", now.bad), told));
            }
        }
        let is_done = |target: usize| {
            Some(target) == frozen
                || (now.stores[target].is_there && now.stores[target].image == now.file)
        };
        if seen.len() < QUIET_STEPS_MAX && (0..self.configuration.targets).all(is_done) {
            self.arrives.extend(seen);
            return None;
        }
        told.push(format!(
            "file {:?}, published {:?}",
            now.file,
            now.stores.map(|store| store.image)
        ));
        let without = match frozen {
            None => String::new(),
            Some(target) => format!(", without target {}", ["A", "B"][target]),
        };
        Some((format!("a quiet database is not published{without}"), told))
    }

    /// Walks from the first state to this one again and tells each step.
    fn trace(&self, state: &State) -> Vec<String> {
        let mut keys = vec![key(state)];
        while let Some(&parent) = keys.last().and_then(|last| self.parents.get(last)) {
            if parent == 0 {
                break;
            }
            keys.push(parent);
        }
        let mut now = self.first();
        let mut told = Vec::new();
        for wanted in keys.iter().rev().skip(1) {
            let found = self
                .steps(&now)
                .0
                .into_iter()
                .find(|step| key(&step.next) == *wanted);
            let Some(step) = found else {
                told.push("(two states share a hash; the trace ends here)".to_owned());
                break;
            };
            now = step.next;
            told.push(format!("{}: {}", step.actor, step.what));
        }
        told.push("--- and then".to_owned());
        told
    }
}

fn is_quiet(state: &State) -> bool {
    let is_idle = state
        .writers
        .iter()
        .all(|writer| writer.at == WriterAt::Idle);
    let is_unlocked = state.exclusive == 0;
    // A connection that keeps EXCLUSIVE is in the way until it has written its process id to the page that is linked now.
    let is_kept = state.linked != NONE
        && (1..=2).contains(&state.exclusive)
        && state.writers[state.exclusive as usize - 1].mapped == state.linked
        && state.controls[state.linked as usize].last_cc != NONE;
    is_idle && state.foreign.at == ForeignAt::Idle && !state.journal && (is_unlocked || is_kept)
}

/// The next step of the copiers if nobody else does anything and no store fails; `frozen` waits for its store.
fn alone(state: &State, frozen: Option<usize>, configuration: &Configuration) -> Option<Step> {
    let mut steps = Steps::default();
    for is_start in [false, true] {
        for process in 0..configuration.copiers {
            let copier = &state.copiers[process];
            if (copier.at == CopierAt::Off) != is_start {
                continue;
            }
            process_steps(state, process, configuration, &mut steps);
            for target in 0..configuration.targets {
                let holds = copier.mutex as usize == target + 1;
                let is_away = Some(target) == frozen;
                let waits = is_away && (!holds || copier.targets[target].at == TargetAt::Put);
                if copier.at == CopierAt::Runs && !waits {
                    target_steps(state, process, target, configuration, &mut steps);
                }
            }
            if !steps.0.is_empty() {
                let mut step = steps.0.swap_remove(0);
                go_on(&mut step.next, process, configuration);
                tidy(&mut step.next, configuration);
                return Some(step);
            }
        }
    }
    None
}

/// Takes the steps that touch nothing but a target's own memory.
fn go_on(state: &mut State, process: usize, configuration: &Configuration) {
    for target in 0..configuration.targets {
        while state.copiers[process].at == CopierAt::Runs
            && is_local(state, process, target, configuration)
        {
            let mut steps = Steps::default();
            target_steps(state, process, target, configuration, &mut steps);
            match steps.0.pop() {
                Some(step) => *state = step.next,
                None => break,
            }
        }
    }
}

fn is_local(state: &State, process: usize, target: usize, configuration: &Configuration) -> bool {
    let copier = &state.copiers[process];
    let me = &copier.targets[target];
    let is_skipped = me.chunk >= 2 || me.more >> me.chunk & 1 == 0;
    match me.at {
        TargetAt::SliceBefore => is_skipped,
        TargetAt::ReadFirst | TargetAt::ReadHeader | TargetAt::SliceAfter => configuration.coarse,
        TargetAt::Bits => !me.quiet && is_skipped,
        TargetAt::QuietAgain => !me.quiet,
        TargetAt::LookAtPage => state.budget.lose_folder == 0 && copier.mapped == state.linked,
        TargetAt::SealMove
        | TargetAt::SealIndex
        | TargetAt::SealDelete
        | TargetAt::ClaimSecond
        | TargetAt::InflightZero => configuration.sections,
        TargetAt::OtherRecord if configuration.sections => true,
        TargetAt::OtherRecord => {
            let other = 1 - target;
            let is_told = copier.targets[other].lacks() & !state.records[other].lacks == 0;
            is_told || !state.records[other].is_there
        }
        TargetAt::Replay => {
            let is_free = copier.mutex == 0 || copier.mutex as usize == target + 1;
            is_free && !configuration.off.lacks(Guard::TakeWithClaim)
        }
        _ => false,
    }
}
