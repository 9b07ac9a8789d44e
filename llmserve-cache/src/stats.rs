//! What a layer has done, in numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llmserve_core::{Counter, Gauge, Histogram, Recorder};

use crate::answer::Summary;
use crate::store::StoreStats;
use crate::trace::Source;

/// A layer's counters, and what its store holds.
///
/// ```
/// use llmserve_cache::CacheLayer;
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let cached = CacheLayer::new(Closed);
/// drop(cached.generate(Request::text("Hi")));
/// let stats = cached.stats();
/// assert_eq!((stats.hits, stats.misses, stats.stored), (0, 1, 0));
/// assert_eq!(stats.store.entries, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Requests answered as an equal one was before.
    pub hits: u64,
    /// Requests answered as one that means the same was before.
    pub semantic_hits: u64,
    /// Requests that listened to the run of an equal one.
    pub joined: u64,
    /// Requests that the inner service ran for.
    pub misses: u64,
    /// Requests that take no part, because their answer may differ each time or has no name.
    pub bypassed: u64,
    /// Answers handed to the store. Fewer than misses where answers failed, were cut off,
    /// dropped, or too large.
    pub stored: u64,
    /// Answers found and not given out, because something they belong to was invalidated.
    pub stale: u64,
    /// Tokens that no model had to generate: of answers given out again, and of those that were
    /// listened to from their beginning to their end as an equal request's run made them.
    pub saved_tokens: u64,
    /// Time that those runs took from their own calls to their ends.
    pub saved_time: Duration,
    /// Panics of the store, and entries of another key than it was asked for, each taken as a miss
    /// or an answer not kept.
    pub store_failures: u64,
    /// Runs under way.
    pub running: usize,
    /// The store's own counters; those of all layers that share it.
    pub store: StoreStats,
}

/// The counters behind [`CacheStats`], and the host's instruments.
pub(crate) struct Counters {
    exact: Level,
    semantic: Level,
    joined: Count,
    misses: Count,
    bypassed: Count,
    stored: Count,
    stale: Count,
    saved_tokens: Count,
    saved_nanos: Count,
    store_failures: Count,
    told: Told,
}

/// One level's hits among the requests that came to it.
#[derive(Default)]
struct Level {
    hits: Count,
    asked: Count,
}

#[derive(Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, by: u64) -> u64 {
        self.0.fetch_add(by, Ordering::Relaxed).wrapping_add(by)
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The host's instruments.
struct Told {
    hits: [Arc<dyn Counter>; 3],
    misses: [Arc<dyn Counter>; 2],
    ratio: [Arc<dyn Gauge>; 2],
    age: [Arc<dyn Histogram>; 2],
    saved_tokens: Arc<dyn Counter>,
    saved_seconds: Arc<dyn Gauge>,
    stored: Arc<dyn Counter>,
    stale: Arc<dyn Counter>,
    bypassed: Arc<dyn Counter>,
    entries: Arc<dyn Gauge>,
    bytes: Arc<dyn Gauge>,
    evictions: Arc<dyn Gauge>,
    failures: Arc<dyn Gauge>,
}

const EXACT: usize = 0;
const SEMANTIC: usize = 1;
const JOINED: usize = 2;
const LEVELS: [&str; 3] = ["exact", "semantic", "joined"];

/// Seconds: from moments to a week.
const AGES: &[f64] = &[
    1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0,
];

/// What the metrics mean that several levels have: one text for each name.
pub(crate) mod help {
    pub(crate) const HITS: &str = "Requests that needed no run of their own; of level tokens, parts of texts not encoded again.";
    pub(crate) const MISSES: &str = "Requests that a level was asked for and had no answer to; of level tokens, parts of texts.";
    pub(crate) const RATIO: &str = "Hits among what a level was asked for.";
    pub(crate) const ENTRIES: &str = "Answers held; of level tokens, parts of texts.";
    pub(crate) const BYTES: &str = "Bytes they take.";
}

impl Told {
    fn new(recorder: &dyn Recorder) -> Self {
        let label = |level: usize| [("level", LEVELS[level])];
        Self {
            hits: [EXACT, SEMANTIC, JOINED].map(|level| {
                recorder.counter("llmserve_cache_hits_total", help::HITS, &label(level))
            }),
            misses: [EXACT, SEMANTIC].map(|level| {
                recorder.counter("llmserve_cache_misses_total", help::MISSES, &label(level))
            }),
            ratio: [EXACT, SEMANTIC].map(|level| {
                recorder.gauge("llmserve_cache_hit_ratio", help::RATIO, &label(level))
            }),
            age: [EXACT, SEMANTIC].map(|level| {
                let help = "How long ago an answer that was given out again had been stored.";
                recorder.histogram("llmserve_cache_age_seconds", help, AGES, &label(level))
            }),
            saved_tokens: recorder.counter(
                "llmserve_cache_saved_tokens_total",
                "Tokens that no model had to generate.",
                &[],
            ),
            saved_seconds: recorder.gauge(
                "llmserve_cache_saved_seconds",
                "Time that the runs took whose answers needed no other; only grows.",
                &[],
            ),
            stored: recorder.counter("llmserve_cache_stored_total", "Answers kept.", &[]),
            stale: recorder.counter(
                "llmserve_cache_stale_total",
                "Answers found that had been invalidated.",
                &[],
            ),
            bypassed: recorder.counter(
                "llmserve_cache_bypassed_total",
                "Requests that took no part.",
                &[],
            ),
            entries: recorder.gauge("llmserve_cache_entries", help::ENTRIES, &[]),
            bytes: recorder.gauge("llmserve_cache_bytes", help::BYTES, &[]),
            evictions: recorder.gauge(
                "llmserve_cache_evictions",
                "Answers given up to make room; only grows.",
                &[],
            ),
            failures: recorder.gauge(
                "llmserve_cache_store_failures",
                "Lookups and writes that the store could not do; only grows.",
                &[],
            ),
        }
    }
}

impl Counters {
    pub(crate) fn new(recorder: &dyn Recorder) -> Self {
        Self {
            exact: Level::default(),
            semantic: Level::default(),
            joined: Count::default(),
            misses: Count::default(),
            bypassed: Count::default(),
            stored: Count::default(),
            stale: Count::default(),
            saved_tokens: Count::default(),
            saved_nanos: Count::default(),
            store_failures: Count::default(),
            told: Told::new(recorder),
        }
    }

    /// A request's answer comes from here.
    pub(crate) fn source(&self, source: Source) {
        match source {
            Source::Exact { age } => self.hit(EXACT, age),
            Source::Semantic { age, .. } => self.hit(SEMANTIC, age),
            Source::Joined => {
                self.joined.add(1);
                self.told.hits[JOINED].add(1);
            }
            Source::Model => {
                self.misses.add(1);
            }
            Source::Bypassed => {
                self.bypassed.add(1);
                self.told.bypassed.add(1);
            }
        }
    }

    /// An answer that cost this needed no run.
    pub(crate) fn saved(&self, cost: Summary) {
        self.saved_tokens.add(cost.tokens as u64);
        self.told.saved_tokens.add(cost.tokens as u64);
        let nanos = u64::try_from(cost.took.as_nanos()).unwrap_or(u64::MAX);
        let nanos = self.saved_nanos.add(nanos);
        self.told.saved_seconds.set(nanos as f64 / 1e9);
    }

    /// A level was asked and has nothing.
    pub(crate) fn exact_miss(&self) {
        self.miss(EXACT);
    }

    pub(crate) fn semantic_miss(&self) {
        self.miss(SEMANTIC);
    }

    pub(crate) fn stored(&self, store: StoreStats) {
        self.stored.add(1);
        self.told.stored.add(1);
        self.told.entries.set(store.entries as f64);
        self.told.bytes.set(store.bytes as f64);
        self.told.evictions.set(store.evictions as f64);
        self.told.failures.set(store.failures as f64);
    }

    pub(crate) fn stale(&self) {
        self.stale.add(1);
        self.told.stale.add(1);
    }

    pub(crate) fn store_failure(&self) {
        self.store_failures.add(1);
    }

    fn level(&self, level: usize) -> &Level {
        if level == EXACT {
            &self.exact
        } else {
            &self.semantic
        }
    }

    fn hit(&self, level: usize, age: Duration) {
        let counts = self.level(level);
        let hits = counts.hits.add(1);
        let asked = counts.asked.add(1);
        self.told.hits[level].add(1);
        self.told.ratio[level].set(hits as f64 / asked as f64);
        self.told.age[level].record(age.as_secs_f64());
    }

    fn miss(&self, level: usize) {
        let counts = self.level(level);
        let asked = counts.asked.add(1);
        self.told.misses[level].add(1);
        self.told.ratio[level].set(counts.hits.read() as f64 / asked as f64);
    }

    pub(crate) fn read(&self, running: usize, store: StoreStats) -> CacheStats {
        CacheStats {
            hits: self.exact.hits.read(),
            semantic_hits: self.semantic.hits.read(),
            joined: self.joined.read(),
            misses: self.misses.read(),
            bypassed: self.bypassed.read(),
            stored: self.stored.read(),
            stale: self.stale.read(),
            saved_tokens: self.saved_tokens.read(),
            saved_time: Duration::from_nanos(self.saved_nanos.read()),
            store_failures: self.store_failures.read(),
            running,
            store,
        }
    }
}
