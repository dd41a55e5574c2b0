//! Inputs as scripts: which real object to take, and what to do to it. Random bytes are never a manifest; a script of random bytes
//! is a manifest with a few changes.

/// Changes that one script makes at most: with more, nothing is left of the object.
const STEPS_MAX: u8 = 6;

/// Kind, place and value of one change.
const STEP_LEN_BYTES: usize = 6;

/// Bytes that one change moves, removes or repeats at most.
const RUN_LEN_MAX: usize = 64;

/// The object that `input` is, or that its script makes of one of `seeds`.
///
/// `is_real` says whether the input already is (nearly) an object: such inputs come from the corpus, and from a fuzzer that has
/// changed one of the corpus.
#[must_use]
pub fn object(seeds: &[Vec<u8>], input: &[u8], is_real: bool) -> Vec<u8> {
    if is_real || seeds.is_empty() {
        return input.to_vec();
    }
    let [pick, steps, script @ ..] = input else {
        return input.to_vec();
    };
    let mut bytes = seeds[usize::from(*pick) % seeds.len()].clone();
    let (steps, _) = script.split_at(
        script
            .len()
            .min(usize::from(steps % (STEPS_MAX + 1)) * STEP_LEN_BYTES),
    );
    for step in steps.as_chunks::<STEP_LEN_BYTES>().0 {
        change(&mut bytes, *step);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, step: [u8; STEP_LEN_BYTES]) {
    let [kind, low, high, near, run, value] = step;
    // Half of the changes hit the beginning, where the small fields are.
    let span = if near & 1 == 0 {
        bytes.len()
    } else {
        bytes.len().min(128)
    };
    let at = usize::from(u16::from_le_bytes([low, high])) % (span + 1);
    let run = at..bytes.len().min(at + 1 + usize::from(run) % RUN_LEN_MAX);
    match kind % 8 {
        0 => bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte = value),
        1 => bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte ^= 1 << (value % 8)),
        2 => bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte = byte.wrapping_add(1)),
        3 => bytes.insert(at, value),
        4 => drop(bytes.drain(run)),
        5 => bytes[run].fill(if value & 1 == 0 { 0xff } else { 0 }),
        6 => {
            let copy = bytes[run.clone()].to_vec();
            drop(bytes.splice(run.end..run.end, copy));
        }
        _ => bytes.truncate(at),
    }
}
