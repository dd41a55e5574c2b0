//! Counts what a thread allocates: the targets hold decoders to a bound that depends on the length of their input.
//!
//! What zstd allocates in C is not counted: a decompression context has a fixed size, and what it makes goes into a buffer of ours.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count per thread.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn grow(len: usize) {
    LIVE.with(|live| {
        live.set(live.get().wrapping_add(len));
        PEAK.with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn shrink(len: usize) {
    // What another thread has allocated may be freed here.
    LIVE.with(|live| live.set(live.get().saturating_sub(len)));
}

// SAFETY: every call goes to the system's allocator with the same arguments. The counters are plain cells of the thread, without
// destructors and without allocation, so they can be used at any time of its life.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        grow(new_len.saturating_sub(layout.size()));
        shrink(layout.size().saturating_sub(new_len));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, new_len) }
    }
}

/// Runs `work`, and says how many more bytes than before it held at most.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get().saturating_sub(before))
}

/// Runs `work` on an input of `len` bytes, and panics if it held more than `factor * len + constant` bytes at a time.
pub fn bounded<T>(
    what: &str,
    len: usize,
    factor: usize,
    constant: usize,
    work: impl FnOnce() -> T,
) -> T {
    let (done, peak) = peak_of(work);
    let bound = factor * len + constant;
    assert!(
        peak <= bound,
        "{what} of {len} bytes held {peak} bytes, more than {factor} * {len} + {constant} = {bound}"
    );
    done
}
