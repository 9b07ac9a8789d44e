//! What a caching tokenizer has done, in numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llmserve_core::{Counter, Gauge, Recorder};

use crate::stats::help;

/// What a [`CachingTokenizer`](super::CachingTokenizer) holds and has done. A piece is a part of a
/// text between two cuts; what went straight to the inner tokenizer is in none of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenCacheStats {
    /// Pieces whose tokens were known.
    pub hits: u64,
    /// Pieces that had to be encoded.
    pub misses: u64,
    /// Bytes of text in the hits.
    pub bytes_saved: u64,
    /// Pieces held.
    pub entries: usize,
    /// Bytes they take: texts, tokens and bookkeeping.
    pub bytes: usize,
}

/// The counters behind [`TokenCacheStats`], and the host's instruments.
pub(super) struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes_saved: AtomicU64,
    told: Told,
}

struct Told {
    hits: Arc<dyn Counter>,
    misses: Arc<dyn Counter>,
    ratio: Arc<dyn Gauge>,
    bytes_saved: Arc<dyn Counter>,
    entries: Arc<dyn Gauge>,
    bytes: Arc<dyn Gauge>,
}

impl Counters {
    pub(super) fn new(recorder: &dyn Recorder) -> Self {
        let label = [("level", "tokens")];
        Self {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            bytes_saved: AtomicU64::new(0),
            told: Told {
                hits: recorder.counter("llmserve_cache_hits_total", help::HITS, &label),
                misses: recorder.counter("llmserve_cache_misses_total", help::MISSES, &label),
                ratio: recorder.gauge("llmserve_cache_hit_ratio", help::RATIO, &label),
                bytes_saved: recorder.counter(
                    "llmserve_cache_saved_bytes_total",
                    "Bytes of text that were not encoded again.",
                    &label,
                ),
                entries: recorder.gauge("llmserve_cache_entries", help::ENTRIES, &label),
                bytes: recorder.gauge("llmserve_cache_bytes", help::BYTES, &label),
            },
        }
    }

    /// Counts one text; what was counted is added when it is dropped, also by an error or a panic.
    pub(super) fn tally(&self) -> Tally<'_> {
        Tally {
            counters: self,
            hits: 0,
            misses: 0,
            bytes_saved: 0,
        }
    }

    pub(super) fn tell_held(&self, (entries, bytes): (usize, usize)) {
        self.told.entries.set(entries as f64);
        self.told.bytes.set(bytes as f64);
    }

    pub(super) fn read(&self, entries: usize, bytes: usize) -> TokenCacheStats {
        TokenCacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes_saved: self.bytes_saved.load(Ordering::Relaxed),
            entries,
            bytes,
        }
    }
}

/// The pieces of one text.
pub(super) struct Tally<'c> {
    counters: &'c Counters,
    hits: u64,
    misses: u64,
    bytes_saved: u64,
}

impl Tally<'_> {
    pub(super) fn hit(&mut self, bytes: usize) {
        self.hits += 1;
        self.bytes_saved += bytes as u64;
    }

    pub(super) fn miss(&mut self) {
        self.misses += 1;
    }

    pub(super) fn missed(&self) -> bool {
        self.misses > 0
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let Counters { told, .. } = self.counters;
        let add = |count: &AtomicU64, told: &dyn Counter, by: u64| {
            if by > 0 {
                told.add(by);
            }
            count.fetch_add(by, Ordering::Relaxed) + by
        };
        let hits = add(&self.counters.hits, &*told.hits, self.hits);
        let misses = add(&self.counters.misses, &*told.misses, self.misses);
        add(
            &self.counters.bytes_saved,
            &*told.bytes_saved,
            self.bytes_saved,
        );
        if hits + misses > 0 {
            told.ratio.set(hits as f64 / (hits + misses) as f64);
        }
    }
}
