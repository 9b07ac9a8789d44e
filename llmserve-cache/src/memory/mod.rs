//! The store in this process's memory.

mod builder;
mod shelf;

use std::sync::Arc;

use llmserve_core::Clock;
use parking_lot::Mutex;

pub use builder::{BuildError, MemoryStoreBuilder};

use crate::answer::Answer;
use crate::key::Key;
use crate::store::{Lookup, Store, StoreStats};
use shelf::{ENTRY_OVERHEAD, Shelf};

/// Answers in memory: bounded in bytes, the least recently used given up first, forgotten after
/// a time to live.
///
/// One lock, held for a few map operations a request; what is let go is freed outside of it. The
/// default holds 64 MiB and forgets nothing by time, as deterministic answers do not age by
/// themselves. Shared by several layers through an [`Arc`], each with its own
/// [`namespace`](crate::CacheLayerBuilder::namespace).
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use llmserve_cache::{Answer, Key, Lookup, MemoryStore, Store};
/// use llmserve_core::{ManualClock, Request};
///
/// let clock = Arc::new(ManualClock::default());
/// let store = MemoryStore::builder()
///     .max_bytes(1 << 20)
///     .ttl(Duration::from_secs(60))
///     .clock(clock.clone())
///     .build()?;
///
/// let key = Arc::new(Key::new("", &Request::text("Hi")).expect("greedy"));
/// store.put(key.clone(), Arc::new(Answer::new(Vec::new())));
/// assert!(matches!(store.get(&key), Lookup::Ready(Some(_))));
/// clock.advance(Duration::from_secs(60));
/// assert!(matches!(store.get(&key), Lookup::Ready(None)));
/// assert_eq!(store.stats().expirations, 1);
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
pub struct MemoryStore {
    shelf: Mutex<Shelf>,
    max_bytes: usize,
    clock: Arc<dyn Clock>,
}

impl MemoryStore {
    /// Starts making one.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder::new()
    }

    fn from_parts(shelf: Shelf, max_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            shelf: Mutex::new(shelf),
            max_bytes,
            clock,
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStoreBuilder::new().make()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        let now = self.clock.now();
        let mut let_go = Vec::new();
        let found = self.shelf.lock().get(key, now, &mut let_go);
        Lookup::Ready(found)
    }

    fn put(&self, key: Arc<Key>, answer: Arc<Answer>) {
        let now = self.clock.now();
        let mut let_go = Vec::new();
        self.shelf.lock().put(key, answer, now, &mut let_go);
    }

    fn max_entry_size(&self) -> usize {
        self.max_bytes.saturating_sub(ENTRY_OVERHEAD)
    }

    fn stats(&self) -> StoreStats {
        self.shelf.lock().stats()
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_bytes", &self.max_bytes)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
