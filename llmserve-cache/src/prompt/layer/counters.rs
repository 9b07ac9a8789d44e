//! What a prompt layer has done, in numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llmserve_core::{Counter, Gauge, Recorder};

/// A prompt layer's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptStats {
    /// Prompts that were looked at. When many come at once, some pass uncounted.
    pub prompts: u64,
    /// Those that begin with something that is kept.
    pub hits: u64,
    /// Beginnings in the statistics.
    pub beginnings: usize,
    /// Bytes they take.
    pub bytes: usize,
    /// Beginnings kept because many prompts share them.
    pub automatic: usize,
    /// Beginnings kept under a name.
    pub registered: usize,
}

pub(super) struct Counters {
    prompts: AtomicU64,
    hits: AtomicU64,
    told_hits: Arc<dyn Counter>,
    told_misses: Arc<dyn Counter>,
    told_ratio: Arc<dyn Gauge>,
    told_kept: Arc<dyn Gauge>,
}

impl Counters {
    pub(super) fn new(recorder: &dyn Recorder) -> Self {
        let level = [("level", "prompts")];
        Self {
            prompts: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            told_hits: recorder.counter(
                "llmserve_cache_hits_total",
                "Requests that begin with a prefix that is kept.",
                &level,
            ),
            told_misses: recorder.counter(
                "llmserve_cache_misses_total",
                "Requests that begin with nothing that is kept.",
                &level,
            ),
            told_ratio: recorder.gauge(
                "llmserve_cache_hit_ratio",
                "Requests that begin with a prefix that is kept, among all.",
                &level,
            ),
            told_kept: recorder.gauge(
                "llmserve_cache_kept_prefixes",
                "Prefixes kept because many requests share them.",
                &[],
            ),
        }
    }

    /// A prompt began with something kept, or not.
    pub(super) fn saw(&self, hit: bool) {
        let prompts = self.prompts.fetch_add(1, Ordering::Relaxed) + 1;
        let hits = self.hits.fetch_add(u64::from(hit), Ordering::Relaxed) + u64::from(hit);
        match hit {
            true => self.told_hits.add(1),
            false => self.told_misses.add(1),
        }
        self.told_ratio.set(hits as f64 / prompts as f64);
    }

    pub(super) fn keeps(&self, prefixes: usize) {
        self.told_kept.set(prefixes as f64);
    }

    pub(super) fn read(
        &self,
        beginnings: usize,
        bytes: usize,
        automatic: usize,
        registered: usize,
    ) -> PromptStats {
        PromptStats {
            prompts: self.prompts.load(Ordering::Relaxed),
            hits: self.hits.load(Ordering::Relaxed),
            beginnings,
            bytes,
            automatic,
            registered,
        }
    }
}
