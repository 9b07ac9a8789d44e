//! A decode step allocates no memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use llmserve_core::{IdentityRoot, KvManager, PageOp, PrefixScope, SequenceId};
use llmserve_kv::PagedKv;

struct Counting;

thread_local! {
    /// This thread's: the test harness has threads of its own, and they do allocate.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `alloc` or `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One decode step of every sequence: plan, commit.
fn step(kv: &mut PagedKv, sequences: &[SequenceId], length: usize, ops: &mut Vec<PageOp>) {
    for &id in sequences {
        kv.allocate(id, length).expect("room");
    }
    kv.take_page_ops(ops);
    for &id in sequences {
        kv.seal(id, length).expect("allocated");
        kv.append(id, &[length as u32 % 7]).expect("open");
    }
}

#[test]
fn decode_allocates_no_memory_between_doublings_of_a_sequences_lists() {
    const PROMPT: usize = 600;
    const STEPS: usize = 400;
    let mut kv = PagedKv::builder()
        .blocks(8 * 80)
        .root(IdentityRoot::new(1, "f32", 16))
        .build()
        .expect("valid settings");
    // Something to evict on the way.
    let past = SequenceId::new(9, 0);
    let long: Vec<u32> = (0..8 * 80 * 16).collect();
    kv.open(past, &long, PrefixScope::default()).expect("fresh");
    kv.allocate(past, long.len()).expect("room");
    kv.seal(past, long.len()).expect("allocated");
    kv.close(past);

    let sequences: Vec<SequenceId> = (0..8).map(|slot| SequenceId::new(slot, 0)).collect();
    for &id in &sequences {
        let prompt = vec![id.slot() as u32; PROMPT];
        kv.open(id, &prompt, PrefixScope::default()).expect("fresh");
    }
    let mut ops = Vec::new();
    // The prompt, and some tokens more, which doubles what was exactly full.
    (PROMPT..PROMPT + 16).for_each(|length| step(&mut kv, &sequences, length, &mut ops));
    let evictions = kv.stats().evictions;
    let before = ALLOCATIONS.get();
    (PROMPT + 16..PROMPT + STEPS).for_each(|length| step(&mut kv, &sequences, length, &mut ops));
    let after = ALLOCATIONS.get();
    assert_eq!(after - before, 0);
    assert!(kv.stats().evictions > evictions + 150);
}
