//! What a layer has done, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::StoreStats;

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
    /// Requests answered from the store.
    pub hits: u64,
    /// Requests that could have been, and were not there.
    pub misses: u64,
    /// Requests that take no part, because their answer may differ each time.
    pub bypassed: u64,
    /// Answers handed to the store. Fewer than misses where answers failed, were cut off,
    /// dropped, or too large.
    pub stored: u64,
    /// Panics of the store, each taken as a miss or an answer not kept.
    pub store_failures: u64,
    /// The store's own counters; those of all layers that share it.
    pub store: StoreStats,
}

/// The counters behind [`CacheStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Count,
    pub(crate) misses: Count,
    pub(crate) bypassed: Count,
    pub(crate) stored: Count,
    pub(crate) store_failures: Count,
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counters {
    pub(crate) fn with_store(&self, store: StoreStats) -> CacheStats {
        let read = |count: &Count| count.0.load(Ordering::Relaxed);
        CacheStats {
            hits: read(&self.hits),
            misses: read(&self.misses),
            bypassed: read(&self.bypassed),
            stored: read(&self.stored),
            store_failures: read(&self.store_failures),
            store,
        }
    }
}
