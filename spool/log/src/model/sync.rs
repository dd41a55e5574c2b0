//! The atomics of `sync` under the model checker: loom's, which a run may weaken at one place of the code (`Weakened`), and at any of which
//! a thread can die. Used by `world`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, Location};
use std::rc::Rc;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

pub(crate) use loom::sync::{Mutex, MutexGuard};
use loom::thread::ThreadId;

/// One memory order of the code made weaker: `file:line:column`, and what stands there instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Weakened {
    pub place: String,
    pub order: &'static str,
}

enum Access {
    Load,
    Store,
    Both,
}

/// What there is to weaken a place to, without the fence that is not there at all.
const ORDERS: [(&str, Ordering); 3] = [
    ("Relaxed", Relaxed),
    ("Acquire", Acquire),
    ("Release", Release),
];
pub(crate) const NO_FENCE: &str = "no fence";
/// Every place at once.
const EVERYWHERE: &str = "everywhere";
/// The order of a compare-exchange that fails.
pub(crate) const FAILS_RELAXED: &str = "fails Relaxed";

/// Unwinds the stack of a thread that is killed.
pub(crate) struct Killed;

thread_local! {
    // All threads of a model run on one thread of the operating system.
    static STATE: RefCell<State> = RefCell::default();
}

#[derive(Default)]
struct State {
    weakened: Vec<Weakened>,
    /// Every weakening that would have made a difference so far.
    candidates: BTreeSet<Weakened>,
    /// Accesses that a thread has left to live.
    doomed: BTreeMap<String, u32>,
    dead: BTreeSet<String>,
    /// What orders system calls among each other.
    kernel: Option<Rc<loom::sync::atomic::AtomicU64>>,
}

fn state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(f)
}

fn name(thread: ThreadId) -> String {
    format!("{thread:?}")
}

/// Weakens the code in every model that this thread runs from now on: `place=order`, and more of that after commas. The place may be "everywhere".
pub(crate) fn weaken(text: &str) {
    let weakened = text.split(',').map(|one| {
        let (place, order) = one.split_once('=').expect("place=order");
        Weakened {
            place: place.to_owned(),
            order: ["Relaxed", "Acquire", "Release", NO_FENCE, FAILS_RELAXED]
                .into_iter()
                .find(|known| *known == order)
                .expect("an order"),
        }
    });
    let weakened = weakened.collect();
    state(|state| state.weakened = weakened);
}

/// What could be weakened, of all that has been run so far.
pub(crate) fn candidates() -> BTreeSet<Weakened> {
    state(|state| state.candidates.clone())
}

/// Begins an execution: nobody is dead.
pub(crate) fn begin() {
    let kernel = Rc::new(loom::sync::atomic::AtomicU64::new(0));
    state(|state| {
        state.doomed.clear();
        state.dead.clear();
        state.kernel = Some(kernel);
    });
}

/// Lets this thread die before its `accesses + 1`st access to an atomic or the kernel: it unwinds with [`Killed`], and nothing that it does on
/// its way has an effect.
pub(crate) fn doom(accesses: u32) {
    let me = name(loom::thread::current().id());
    state(|state| state.doomed.insert(me, accesses));
}

/// Ends the death of this thread: what unwound has been caught. `false` when it lives.
pub(crate) fn bury() -> bool {
    let me = name(loom::thread::current().id());
    state(|state| {
        state.doomed.remove(&me);
        state.dead.remove(&me)
    })
}

/// A system call: a relaxed access to one object. So all of them are in one order, and impose none on memory without fences.
pub(crate) fn enter_kernel() {
    if step() {
        let kernel = state(|state| state.kernel.clone());
        if let Some(kernel) = kernel {
            kernel.fetch_add(1, Relaxed);
        }
    }
}

/// Before an access. `false`: this thread is dead, and must not have an effect.
fn step() -> bool {
    let is_doomed = state(|state| !state.doomed.is_empty() || !state.dead.is_empty());
    if !is_doomed {
        return true;
    }
    let me = name(loom::thread::current().id());
    let dies = state(|state| {
        if state.dead.contains(&me) {
            return None;
        }
        match state.doomed.get_mut(&me) {
            Some(0) => {
                state.dead.insert(me);
                Some(true)
            }
            Some(left) => {
                *left -= 1;
                Some(false)
            }
            None => Some(false),
        }
    });
    match dies {
        None => false,
        Some(false) => true,
        Some(true) => {
            // What a process has stored before it died stays stored.
            loom::sync::atomic::fence(SeqCst);
            panic::resume_unwind(Box::new(Killed))
        }
    }
}

/// The order at this place of the code, in this run; of a load, a store, or both.
fn order_at(place: &Location<'_>, order: Ordering, access: Access) -> Ordering {
    let choices: &[&'static str] = match (order, access) {
        (Relaxed, _) => &[],
        (_, Access::Both) => &["Relaxed", "Acquire", "Release"],
        (SeqCst, Access::Load) => &["Relaxed", "Acquire"],
        (SeqCst, Access::Store) => &["Relaxed", "Release"],
        _ => &["Relaxed"],
    };
    let chosen = chosen(place, choices);
    ORDERS
        .iter()
        .find(|(name, _)| Some(*name) == chosen)
        .map_or(order, |(_, order)| *order)
}

/// Which of the weakenings of this place is in force.
fn chosen(place: &Location<'_>, choices: &[&'static str]) -> Option<&'static str> {
    // The copier of the model stands for code as well.
    let is_code = !place.file().contains("/model/") || place.file().ends_with("/copier.rs");
    if choices.is_empty() || !is_code {
        return None;
    }
    let place = place.to_string();
    state(|state| {
        for order in choices {
            state.candidates.insert(Weakened {
                place: place.clone(),
                order,
            });
        }
        let is_meant = |weakened: &&Weakened| {
            [place.as_str(), EVERYWHERE].contains(&weakened.place.as_str())
                && choices.contains(&weakened.order)
        };
        state
            .weakened
            .iter()
            .find(is_meant)
            .map(|weakened| weakened.order)
    })
}

/// As std's.
#[track_caller]
pub(crate) fn fence(order: Ordering) {
    let place = Location::caller();
    if step() && chosen(place, &[NO_FENCE]).is_none() {
        loom::sync::atomic::fence(order);
    }
}

macro_rules! atomics {
    ($($name:ident: $value:ty),*) => {$(
        /// As std's.
        #[derive(Debug, Default)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                let order = order_at(Location::caller(), order, Access::Load);
                step();
                self.0.load(order)
            }

            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                let order = order_at(Location::caller(), order, Access::Store);
                if step() {
                    self.0.store(value, order);
                }
            }

            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                let order = order_at(Location::caller(), order, Access::Both);
                if step() { self.0.swap(value, order) } else { value }
            }

            #[track_caller]
            pub fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                let order = order_at(Location::caller(), order, Access::Both);
                if step() { self.0.fetch_or(bits, order) } else { bits }
            }

            #[track_caller]
            pub fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                let order = order_at(Location::caller(), order, Access::Both);
                if step() { self.0.fetch_and(bits, order) } else { bits }
            }

            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let place = Location::caller();
                let success = order_at(place, success, Access::Both);
                let failure = match chosen(place, &[FAILS_RELAXED]) {
                    Some(_) => Relaxed,
                    None => failure,
                };
                if step() { self.0.compare_exchange(current, new, success, failure) } else { Ok(current) }
            }
        }
    )*};
}

atomics!(AtomicBool: bool, AtomicU32: u32, AtomicU64: u64);

macro_rules! arithmetic {
    ($($name:ident: $value:ty),*) => {$(
        #[allow(dead_code)]
        impl $name {
            #[track_caller]
            pub fn fetch_add(&self, more: $value, order: Ordering) -> $value {
                let order = order_at(Location::caller(), order, Access::Both);
                if step() { self.0.fetch_add(more, order) } else { more }
            }

            #[track_caller]
            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                let order = order_at(Location::caller(), order, Access::Both);
                if step() { self.0.fetch_max(value, order) } else { value }
            }
        }
    )*};
}

arithmetic!(AtomicU32: u32, AtomicU64: u64);
