//! Forgets what no later step looks at, so that equal situations are equal states; `checker.rs` calls it after each step.

use crate::configurations::Configuration;
use crate::guards::Guard;
use crate::state::{Control, Late, NONE, Record, State, Target, TargetAt, Writer, WriterAt};

/// Forgets what no later step looks at, so that equal situations are equal states.
pub fn tidy(state: &mut State, configuration: &Configuration) {
    for (me, writer) in state.writers.iter_mut().enumerate() {
        let is_never_there = configuration.transactions[me] == 0 && writer.at == WriterAt::Idle;
        if writer.at == WriterAt::Idle {
            *writer = Writer {
                transactions: writer.transactions,
                mapped: if is_never_there { NONE } else { writer.mapped },
                keeps: writer.keeps,
                ..Writer::default()
            };
        }
        if !matches!(writer.at, WriterAt::Swap | WriterAt::LastCc) {
            (writer.head_moved, writer.sealed) = (false, false);
        }
    }
    for copier in &mut state.copiers {
        for (index, target) in copier.targets.iter_mut().enumerate() {
            if index >= configuration.targets {
                *target = Target::default();
            }
            tidy_target(target);
        }
    }
    for target in 0..2 {
        if state.late[target].behind > 0 && !configuration.off.lacks(Guard::PublishIsConditional) {
            state.late[target] = Late::default();
        }
        if !state.late[target].is_there {
            state.late[target] = Late::default();
        }
        if !state.records[target].is_there {
            state.records[target] = Record::default();
        }
    }
    for page in 0..2 {
        let is_seen = state.linked == page
            || state.writers.iter().any(|writer| writer.mapped == page)
            || state.copiers.iter().any(|copier| copier.mapped == page);
        let control = &mut state.controls[page as usize];
        if !is_seen {
            *control = Control::default();
        }
        if !control.is_left {
            control.left = Default::default();
            (control.left_damaged, control.left_sealed) = (false, 0);
        }
        let seals = |target: &Target| target.at == TargetAt::SealMove;
        let is_sealing = state
            .copiers
            .iter()
            .any(|copier| copier.mapped == page && copier.targets.iter().any(seals));
        if !is_sealing {
            (control.sealed, control.moved_since_sealed) = (0, false);
        }
    }
    forget_history(state, configuration);
}

/// A committed state older than what every target holds can only be wrong; two are kept for a power failure.
fn forget_history(state: &mut State, configuration: &Configuration) {
    let stores = &state.stores[..configuration.targets];
    if stores.iter().any(|store| !store.is_there) {
        return;
    }
    let oldest = stores.iter().map(|store| store.state).min().unwrap_or(0);
    let gone = oldest.min(state.committed.saturating_sub(2));
    if gone == 0 {
        return;
    }
    state.history.copy_within(gone as usize.., 0);
    state.committed -= gone;
    let kept = state.committed as usize;
    state.history[kept..].fill(Default::default());
    for store in &mut state.stores[..configuration.targets] {
        store.state -= gone;
    }
}

/// Forgets what no later step of this target looks at.
fn tidy_target(target: &mut Target) {
    use TargetAt::*;
    if !matches!(
        target.at,
        ClaimSecond | SealStore | SealMove | SealIndex | SealDelete
    ) {
        target.back = Load;
    }
    if target.at != ClaimSecond {
        target.claimed = 0;
    }
    if !matches!(target.at, ReadFirst | ReadHeader | SliceAfter) {
        (target.slice_epoch, target.slice_mtime) = (false, false);
        (target.slice_counter, target.slice_long) = (0, false);
    }
    let is_taken = matches!(target.at, QuietAgain | LookAtPage | Put | Record);
    // Between two rounds of a catch-up too.
    let is_reading = target.reading != 0 && !is_taken;
    if !is_taken && !is_reading {
        target.quiet = false;
    }
    if !is_reading {
        (target.more, target.goes_on) = (0, false);
    }
    if matches!(target.at, Counter | ClaimAgain | Replay | Decide | Drain) {
        target.more = 0;
    }
    if !(is_reading || target.quiet) {
        (target.epoch, target.mtime) = (false, false);
    }
    if !is_reading {
        (target.slices, target.long, target.chunk) = Default::default();
        target.noted_counter = 0;
    }
    if !matches!(
        target.at,
        SliceBefore | ReadFirst | ReadHeader | SliceAfter | Bits
    ) {
        target.chunk = 0;
    }
    if !is_taken {
        target.composed = Default::default();
    }
}
