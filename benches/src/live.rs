//! How much memory a program holds, counted where it is taken.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static TAKEN: AtomicU64 = AtomicU64::new(0);
static GIVEN_BACK: AtomicU64 = AtomicU64::new(0);
static BYTES_TAKEN: AtomicU64 = AtomicU64::new(0);
static BYTES_GIVEN_BACK: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting: what resident memory hides behind free lists and arenas.
///
/// ```
/// use llmserve_benches::{CountingAllocator, Live};
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator;
/// let before = Live::now();
/// let held = vec![0u8; 1 << 20];
/// assert!(Live::now().bytes >= before.bytes + held.len() as u64);
/// ```
pub struct CountingAllocator;

/// What is allocated and not freed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// Bytes, as they were asked for.
    pub bytes: u64,
    /// Pieces.
    pub pieces: u64,
}

impl Live {
    /// At this moment; zero unless [`CountingAllocator`] is the program's allocator.
    pub fn now() -> Self {
        // What was given back first: in between more may be taken, and no count goes below zero.
        let bytes = BYTES_GIVEN_BACK.load(Ordering::SeqCst);
        let pieces = GIVEN_BACK.load(Ordering::SeqCst);
        Self {
            bytes: BYTES_TAKEN.load(Ordering::SeqCst).saturating_sub(bytes),
            pieces: TAKEN.load(Ordering::SeqCst).saturating_sub(pieces),
        }
    }
}

fn take(bytes: usize) {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    BYTES_TAKEN.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn give_back(bytes: usize) {
    GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
    BYTES_GIVEN_BACK.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: as above; the pointer came from one of the others.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        give_back(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
