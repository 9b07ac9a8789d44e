//! A step in the steady state allocates nothing but the box around its logits.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmserve_core::{
    Batch, BatchRow, BlockId, BlockTables, GroupId, KvLayout, LogitsWanted, Model, SequenceId,
    StepLimits,
};
use llmserve_model::{CpuModel, CpuOptions, DType, DecoderConfig, Kernels, Weights};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Tables([Vec<BlockId>; 2]);

impl BlockTables for Tables {
    fn table(&self, sequence: SequenceId, _: GroupId) -> &[BlockId] {
        &self.0[sequence.slot()]
    }
}

/// How many things each of a hundred steps allocates.
fn allocations(dtype: DType, kernels: Kernels) -> Vec<usize> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/llama");
    let config = DecoderConfig::from_dir(&dir).unwrap();
    let weights = Arc::new(Weights::open(&dir).unwrap());
    let options = CpuOptions {
        dtype,
        kernels: Some(kernels),
        threads: Some(2),
        ..CpuOptions::default()
    };
    let mut model = CpuModel::build(&config, weights, &options).unwrap();
    let layout = KvLayout {
        block_size: 16,
        blocks: vec![16],
    };
    model
        .prepare(
            &layout,
            StepLimits {
                tokens: 64,
                rows: 2,
                logits: 2,
            },
        )
        .unwrap();
    let tables = Tables([
        (0..8).map(BlockId).collect(),
        (8..16).map(BlockId).collect(),
    ]);
    let mut counts = Vec::with_capacity(100);
    for position in 0..100 {
        let rows = [0, 1].map(|sequence| BatchRow {
            sequence: SequenceId::new(sequence, 0),
            start: position,
            offset: sequence as usize,
            len: 1,
            logits: LogitsWanted::Last,
        });
        let batch = Batch {
            tokens: &[7, 8],
            rows: &rows,
            tables: &tables,
        };
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let logits = model.submit(&batch).unwrap();
        counts.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
        drop(logits);
    }
    counts
}

#[test]
fn a_step_allocates_one_box() {
    for dtype in DType::ALL {
        for kernels in Kernels::available() {
            let counts = allocations(dtype, kernels);
            // The first steps may still set up what belongs to a thread, and the test harness's
            // own thread allocates now and then.
            let more = counts[10..].iter().filter(|count| **count > 1).count();
            assert!(more <= 2, "{kernels}, {dtype}: {counts:?}");
        }
    }
}
