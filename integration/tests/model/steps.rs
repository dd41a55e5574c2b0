//! The steps that lead out of a state, as the actors hand them to `checker.rs`.

use crate::state::State;

/// One step: who, what, and what is then.
pub struct Step {
    pub actor: &'static str,
    pub what: &'static str,
    pub next: State,
}

#[derive(Default)]
pub struct Steps(pub Vec<Step>);

impl Steps {
    pub fn push(&mut self, actor: &'static str, what: &'static str, next: State) {
        self.0.push(Step { actor, what, next });
    }
}
