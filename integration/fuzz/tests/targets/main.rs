//! One fuzz target per kind of input. Each states what holds for any bytes beyond "no panic", under `cargo test` as under
//! `scripts/fuzz`; `verneuil_fuzz` has the objects that they begin with, `__fuzz__` the corpus.

#![allow(clippy::unwrap_used, clippy::panic)]

use verneuil_fuzz::memory::Counting;

mod chunk;
mod configuration;
mod control_page;
mod corpus;
mod key;
mod log;
mod manifest;
mod node;
mod pack;
mod uri;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Longest message that a decoder's error may be: it is shown on one line, and quotes names at most.
const MESSAGE_LEN_MAX_BYTES: usize = 400;

/// An error that a user is shown: not empty, one line, and not as long as the input.
fn says_something(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(
        !text.is_empty() && text.len() <= MESSAGE_LEN_MAX_BYTES && !text.contains('\n'),
        "{text:?}"
    );
}
