//! What a forked child must know: [`generation`] tells it that it is one, and [`ForkLocal`] gives it statics of its own. Used by `pool`, and
//! by every crate that keeps a static behind a lock or a lock on a file.
//!
//! Two things go wrong after a fork. A mutex that another thread of the parent held stays locked in the child for ever, because that thread
//! doesn't exist there. And an inherited descriptor shares its OFD locks with the parent: an unlock in the child drops the parent's.
//!
//! Children made by `vfork`, `posix_spawn` or a bare `clone` run no handlers; they are expected to `exec` at once.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use nix::libc;

static GENERATION: AtomicU64 = AtomicU64::new(0);
static IS_WATCHED: AtomicBool = AtomicBool::new(false);

/// How many [`Delicate`] there are.
static DELICATE: AtomicU32 = AtomicU32::new(0);
/// How often a fork looks whether the delicate moment is over, and how many times at most: after a second something has gone wrong, and the
/// application's fork is what matters.
const LOOK_PERIOD_NS: i64 = 1_000_000;
const LOOKS_MAX: u32 = 1_000;

extern "C" fn before_fork() {
    let mut looks = 0;
    while DELICATE.load(Ordering::Acquire) != 0 && looks < LOOKS_MAX {
        let pause = libc::timespec {
            tv_sec: 0,
            tv_nsec: LOOK_PERIOD_NS,
        };
        // SAFETY: a pause of a length of our own; how much was left of an interrupted one is not asked for.
        unsafe { libc::nanosleep(&raw const pause, ptr::null_mut()) };
        looks += 1;
    }
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    // Those who were in the middle of something are the parent's threads.
    DELICATE.store(0, Ordering::Relaxed);
    crate::inherited::reopen_all();
}

/// While it lives, forks of this process wait (for a second at most): somebody makes what a child would find half made. For short
/// work that waits for nobody.
#[derive(Debug)]
pub struct Delicate {
    generation: u64,
}

impl Delicate {
    /// From now on.
    pub fn begin() -> Self {
        // First: the handlers must be there.
        let generation = generation();
        DELICATE.fetch_add(1, Ordering::AcqRel);
        Self { generation }
    }
}

impl Drop for Delicate {
    fn drop(&mut self) {
        if self.generation == generation() {
            DELICATE.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A number that differs between a process and each child that it forked after the first call. Whatever was made under another number belongs
/// to the parent. Cheap: two loads.
pub fn generation() -> u64 {
    if !IS_WATCHED.load(Ordering::Acquire) {
        watch();
    }
    GENERATION.load(Ordering::Relaxed)
}

#[cold]
fn watch() {
    // No `Once`: a fork while another thread is inside of it would leave it unfinished in the child for ever. Two threads that both come here
    // register the handlers twice, and the number grows by two. A failure (no memory) is tried again by the next caller.
    // SAFETY: registers functions that take nothing, touch atomics and make system calls only (which is safe in a forked child of a
    // process with threads), and stay in memory as long as this code does: glibc forgets the handlers if this library is unloaded.
    let failed = unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_child)) };
    if failed == 0 {
        IS_WATCHED.store(true, Ordering::Release);
    }
}

/// A value per process: a forked child sees a fresh one, made when it is first asked for, and never the parent's, whose locks may be held by
/// threads that the child doesn't have. What the parent's holds (memory, descriptors) is left as it is.
///
/// Each value is leaked, one per generation: meant for statics.
#[derive(Debug)]
pub struct ForkLocal<T: 'static> {
    current: AtomicPtr<OfGeneration<T>>,
    make: fn() -> T,
}

#[derive(Debug)]
struct OfGeneration<T> {
    generation: u64,
    value: T,
}

impl<T: Send + Sync + 'static> ForkLocal<T> {
    /// A place whose values are made by `make`. Threads that come at the same time may each make one; all but one are dropped.
    pub const fn new(make: fn() -> T) -> Self {
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            make,
        }
    }

    /// The value of this process.
    pub fn get(&self) -> &'static T {
        let generation = generation();
        loop {
            let known = self.current.load(Ordering::Acquire);
            // SAFETY: `current` is NULL or came from `Box::into_raw` below, was complete before it was stored (release, acquire), and is
            // never freed or written again. `T` is `Sync`, and may be shared for as long as it lives: for ever.
            if let Some(known) = unsafe { known.as_ref() }
                && known.generation == generation
            {
                return &known.value;
            }
            let new = Box::into_raw(Box::new(OfGeneration {
                generation,
                value: (self.make)(),
            }));
            if self
                .current
                .compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: `new` came from `Box::into_raw` a few lines above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use std::sync::Mutex;

    static VALUE: ForkLocal<Mutex<u32>> = ForkLocal::new(|| Mutex::new(7));

    /// What `body` answers in a forked child.
    fn in_a_child(body: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child calls `body`, which allocates at most (glibc makes that safe after a fork), and leaves without running any
        // destructor or handler.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let status = i32::from(!body());
                // SAFETY: ends the process.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => {
                matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0)))
            }
        }
    }

    #[test]
    fn a_child_has_another_generation_and_its_parent_keeps_its_own() {
        let here = generation();
        assert!(in_a_child(|| generation() != here));
        assert_eq!(generation(), here);
        // A grandchild differs from both.
        assert!(in_a_child(|| {
            let child = generation();
            in_a_child(|| generation() != here && generation() != child)
        }));
    }

    #[test]
    fn a_fork_waits_for_the_end_of_a_delicate_moment_but_not_for_ever() {
        use std::time::{Duration, Instant};
        let moment = Delicate::begin();
        let end = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            drop(moment);
        });
        let begun = Instant::now();
        assert!(in_a_child(|| DELICATE.load(Ordering::Relaxed) == 0));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        end.join().unwrap();
        let _moment = Delicate::begin();
        assert!(in_a_child(|| DELICATE.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_mutex_that_the_parent_held_at_the_fork_does_not_stop_the_child() {
        let mut held = VALUE.get().lock().unwrap();
        *held = 8;
        assert!(in_a_child(|| {
            let fresh = VALUE.get().try_lock();
            fresh.is_ok_and(|value| *value == 7)
        }));
        drop(held);
        assert_eq!(*VALUE.get().lock().unwrap(), 8);
        assert!(std::ptr::eq(VALUE.get(), VALUE.get()));
    }
}
