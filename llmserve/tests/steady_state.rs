//! What the engine allocates in a step of nothing but decoding: its own part, between two calls of
//! the model.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use llmserve::kv::PagedKv;
use llmserve::sched::ContinuousScheduler;
use llmserve::{
    Batch, BlockId, Engine, Event, EventStream, Generate, GroupId, IdentityRoot, KeepPrefix,
    KeptPrefix, KvGroupSpec, KvLayout, Logits, Model, ModelError, ModelInfo, PageStore, Prefix,
    Prompt, Request, StepLimits, merge,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

const VOCAB: usize = 300;
const BLOCK_SIZE: usize = 16;
const REQUESTS: usize = 8;
const PROMPT: usize = 16;
const TOKENS: usize = 200;

/// What a model, on the engine's thread, and the reader tell each other.
#[derive(Default)]
struct Told {
    /// Allocations between two steps, the second of which decodes for every request.
    between: Mutex<Vec<usize>>,
    /// Rows of logits given.
    given: AtomicUsize,
    /// Tokens read.
    read: AtomicUsize,
}

/// Always the same logits.
struct Still {
    info: ModelInfo,
    row: Arc<[f32]>,
    told: Arc<Told>,
    /// Allocations of the thread when the last step was done, if it was one of decoding.
    done: Option<usize>,
}

struct Rows(usize, Arc<[f32]>);

impl Logits for Rows {
    fn rows(&self) -> usize {
        self.0
    }

    fn row(&mut self, _: usize) -> Result<&[f32], ModelError> {
        Ok(&self.1)
    }
}

impl Model for Still {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&mut self, _: &KvLayout, _: StepLimits) -> Result<(), ModelError> {
        Ok(())
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        let now = ALLOCATIONS.get();
        if let Some(done) = self.done {
            self.told.between.lock().unwrap().push(now - done);
        }
        // Events that nobody reads would pile up.
        while self.told.read.load(Ordering::Acquire) < self.told.given.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let rows = batch.logits_rows();
        self.told.given.fetch_add(rows, Ordering::Relaxed);
        let logits = Box::new(Rows(rows, self.row.clone()));
        let decodes = batch.tokens.len() == REQUESTS && rows == REQUESTS;
        self.done = decodes.then(|| ALLOCATIONS.get());
        Ok(logits)
    }

    fn pages(&mut self) -> &mut dyn PageStore {
        self
    }
}

impl PageStore for Still {
    fn page_bytes(&self, _: GroupId) -> usize {
        BLOCK_SIZE
    }

    fn copy(&mut self, _: GroupId, _: BlockId, _: BlockId, _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn read(&self, _: GroupId, _: BlockId, _: &mut Vec<u8>) -> Result<(), ModelError> {
        Ok(())
    }

    fn write(&mut self, _: GroupId, _: BlockId, _: &[u8]) -> Result<(), ModelError> {
        Ok(())
    }
}

/// What the engine allocates after each step in which all requests decode, but the last.
fn allocations(request: impl Fn(Request) -> Request) -> Vec<usize> {
    allocations_beside(0, request)
}

/// The same, while so many prefixes are kept.
fn allocations_beside(prefixes: u32, request: impl Fn(Request) -> Request) -> Vec<usize> {
    let told = Arc::new(Told::default());
    let model = Still {
        info: ModelInfo::new("still", VOCAB, 1024, KvGroupSpec::full(1, "none")),
        row: (0..VOCAB).map(|i| (i * 37 % 101) as f32 * 0.1).collect(),
        told: told.clone(),
        done: None,
    };
    let kv = PagedKv::builder()
        .blocks(REQUESTS * (PROMPT + TOKENS).div_ceil(BLOCK_SIZE) + 4 * prefixes as usize)
        .block_size(BLOCK_SIZE)
        .root(IdentityRoot::new(1, "none", BLOCK_SIZE))
        .build()
        .unwrap();
    let scheduler = ContinuousScheduler::builder()
        .max_num_seqs(REQUESTS)
        .build()
        .unwrap();
    let engine = Engine::builder(model)
        .kv(kv)
        .scheduler(scheduler)
        .build()
        .unwrap();
    let kept = (0..prefixes).map(|nth| {
        let tokens = vec![VOCAB as u32 - 1 - nth; 4 * BLOCK_SIZE];
        engine.keep(Prefix::new(Prompt::Tokens(tokens)))
    });
    let kept: Vec<KeptPrefix> = kept.collect();
    for prefix in &kept {
        assert_eq!(prefix.wait(), Ok(4 * BLOCK_SIZE));
    }
    let streams: Vec<EventStream> = (0..REQUESTS)
        .map(|i| {
            let prompt = (0..PROMPT).map(|j| (i * 31 + j) as u32 % 300);
            let plain = Request::tokens(prompt.collect::<Vec<_>>());
            engine.generate(request(plain.max_tokens(TOKENS).ignore_eos(true)))
        })
        .collect();
    for (_, event) in merge(streams) {
        if let Event::Token(_) = event.unwrap() {
            told.read.fetch_add(1, Ordering::Release);
        }
    }
    engine.drain();
    let mut between = std::mem::take(&mut *told.between.lock().unwrap());
    between.pop();
    between
}

#[test]
fn a_step_of_decoding_allocates_nothing_but_what_is_told() {
    let greedy = allocations(|request| request);
    let beside = allocations_beside(5, |request| request);
    let sampled = allocations(|request| request.temperature(0.8).top_p(0.9).seed(3));
    let top_k = allocations(|request| request.temperature(0.8).top_k(20).seed(3));
    let logprobs = allocations(|request| request.logprobs(3));
    for (name, counts, told) in [
        ("greedy", greedy, 0),
        ("beside prefixes", beside, 0),
        ("sampled", sampled, 0),
        ("top-k", top_k, 0),
        ("logprobs", logprobs, REQUESTS),
    ] {
        assert!(counts.len() > TOKENS / 2, "{name}: {counts:?}");
        // Lists that grow with a sequence double now and then, not of all in the same step if
        // some began earlier.
        let more: usize = counts.iter().map(|count| count.saturating_sub(told)).sum();
        assert!(more <= 8 * REQUESTS, "{name}: {counts:?}");
    }
}
