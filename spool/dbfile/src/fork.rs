//! What a forked child must know: [`generation`] tells it that it is one, and [`ForkLocal`] gives it statics of its own. Used by `pool`, and
//! by every crate that keeps a static behind a lock or a lock on a file.
//!
//! Two things go wrong after a fork. A mutex that another thread of the parent held stays locked in the child for ever, because that thread
//! doesn't exist there. And an inherited descriptor shares its OFD locks with the parent: an unlock in the child drops the parent's.
//!
//! Children made by `vfork`, `posix_spawn` or a bare `clone` run no handlers; they are expected to `exec` at once.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use nix::libc;

static GENERATION: AtomicU64 = AtomicU64::new(0);
static IS_WATCHED: AtomicBool = AtomicBool::new(false);

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    crate::inherited::reopen_all();
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
    // register the handler twice, and the number grows by two. A failure (no memory) is tried again by the next caller.
    // SAFETY: registers a function that takes nothing, touches atomics and makes system calls only (which is safe in a forked child of a
    // process with threads), and stays in memory as long as this code does: glibc forgets the handler if this library is unloaded.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
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
