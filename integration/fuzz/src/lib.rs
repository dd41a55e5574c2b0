//! What the fuzz targets in `tests/targets` share: real objects to begin with, scripts that change them, checksums made to fit
//! again, and an allocator that counts.
//!
//! Under `cargo test` a target runs its corpus and then random inputs for [`TEST_TIME`]; `scripts/fuzz` runs the same targets under
//! libFuzzer, guided by coverage.

pub mod memory;
pub mod script;
pub mod seal;
pub mod seeds;

use std::time::Duration;

/// How long random inputs are tried in an ordinary test run, after the corpus: ten targets on two cores stay below 30 s.
pub const TEST_TIME: Duration = Duration::from_secs(3);

/// How many random inputs are tried at most in that time; more than any target manages.
pub const TEST_ITERATIONS: usize = 1_000_000;

/// Longest input: a real object of the corpus with room to grow.
pub const INPUT_LEN_MAX_BYTES: usize = 32 * 1024;

/// Runs a target under its name, which is that of its folder in `tests/targets/__fuzz__`.
#[macro_export]
macro_rules! fuzz {
    ($name:literal, $target:expr) => {
        bolero::check!(name = $name)
            .with_test_time($crate::TEST_TIME)
            .with_iterations($crate::TEST_ITERATIONS)
            .with_max_len($crate::INPUT_LEN_MAX_BYTES)
            .for_each($target)
    };
}
