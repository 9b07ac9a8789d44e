//! The store in this process's memory.

mod builder;

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use llmserve_core::{Clock, Time};
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::sync::Cache;

pub use builder::MemoryStoreBuilder;

use super::{Lookup, Store, StoreStats};
use crate::entry::Entry;
use crate::epoch::Epochs;
use crate::key::Key;

/// What an entry takes besides its key's and its answer's bytes: map and queue nodes, counts of
/// references, moka's bookkeeping.
pub(crate) const ENTRY_OVERHEAD: usize = 256;

/// Answers in memory, bounded in bytes: [moka](https://docs.rs/moka), a concurrent cache that
/// keeps what is asked for often and lately (TinyLFU, Einziger, Friedman and Manes, 2017), so a
/// scan of requests that come once does not flush it.
///
/// The default holds 64 MiB. Shared by several layers through an [`Arc`], each with its own
/// [`namespace`](crate::CacheLayerBuilder::namespace).
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use llmserve_cache::{Answer, Entry, Key, Lookup, MemoryStore, Stamp, Store};
/// use llmserve_core::{ManualClock, Request};
///
/// let clock = Arc::new(ManualClock::default());
/// let store = MemoryStore::builder().max_bytes(1 << 20).clock(clock.clone()).build()?;
///
/// let key = Arc::new(Key::new("", &Request::text("Hi")).expect("cacheable"));
/// let answer = Answer::new(&[]).expect("known events");
/// let ttl = Some(Duration::from_secs(60));
/// store.put(Entry::new(key.clone(), answer, Stamp::default()).ttl(ttl));
/// assert!(matches!(store.get(&key), Lookup::Ready(Some(_))));
/// clock.advance(Duration::from_secs(60));
/// assert!(matches!(store.get(&key), Lookup::Ready(None)));
/// assert_eq!(store.stats().expirations, 1);
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
pub struct MemoryStore {
    cache: Cache<Arc<Key>, Held, BuildHasherDefault<KeyHash>>,
    max_bytes: usize,
    clock: Arc<dyn Clock>,
    epochs: Arc<Epochs>,
    let_go: Arc<LetGo>,
}

/// An entry, by the store's clock.
#[derive(Clone)]
struct Held {
    entry: Entry,
    stored: Time,
}

#[derive(Default)]
struct LetGo {
    evicted: AtomicU64,
    expired: AtomicU64,
}

impl MemoryStore {
    /// Starts making one.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder::new()
    }

    fn from_parts(max_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        let let_go = Arc::new(LetGo::default());
        let counted = let_go.clone();
        let cache = Cache::builder()
            .max_capacity(max_bytes as u64)
            .weigher(|_, held: &Held| weight(&held.entry))
            .expire_after(ByEntry)
            .eviction_listener(move |_, _, cause| match cause {
                RemovalCause::Size => drop(counted.evicted.fetch_add(1, Ordering::Relaxed)),
                RemovalCause::Expired => drop(counted.expired.fetch_add(1, Ordering::Relaxed)),
                _ => {}
            })
            .build_with_hasher(BuildHasherDefault::default());
        Self {
            cache,
            max_bytes,
            clock,
            epochs: Arc::default(),
            let_go,
        }
    }
}

fn weight(entry: &Entry) -> u32 {
    u32::try_from(entry.size() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
}

/// Frees what is over by the machine's clock, though nobody asks for it any more. Whether an entry
/// that is asked for is over, the store's own clock says.
struct ByEntry;

impl Expiry<Arc<Key>, Held> for ByEntry {
    fn expire_after_create(&self, _: &Arc<Key>, held: &Held, _: Instant) -> Option<Duration> {
        held.entry.ttl
    }

    fn expire_after_update(
        &self,
        _: &Arc<Key>,
        held: &Held,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        held.entry.ttl
    }
}

/// A key is hashed already.
#[derive(Default)]
pub(crate) struct KeyHash(u64);

impl Hasher for KeyHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStoreBuilder::new().make()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        let Some(held) = self.cache.get(key) else {
            return Lookup::Ready(None);
        };
        let kept = self.clock.now().saturating_sub(held.stored);
        let mut entry = held.entry;
        entry.age = entry.age.saturating_add(kept);
        if let Some(ttl) = &mut entry.ttl {
            *ttl = ttl.saturating_sub(kept);
            if ttl.is_zero() {
                self.cache.invalidate(key);
                self.let_go.expired.fetch_add(1, Ordering::Relaxed);
                return Lookup::Ready(None);
            }
        }
        Lookup::Ready(Some(entry))
    }

    fn put(&self, entry: Entry) {
        let stored = self.clock.now();
        self.cache.insert(entry.key.clone(), Held { entry, stored });
    }

    fn remove(&self, key: &Arc<Key>) {
        self.cache.invalidate(key);
    }

    fn epochs(&self) -> &Arc<Epochs> {
        &self.epochs
    }

    fn max_entry_size(&self) -> usize {
        let most = self.max_bytes.min(u32::MAX as usize);
        most.saturating_sub(ENTRY_OVERHEAD)
    }

    /// Exact: what moka has put off is done first.
    fn stats(&self) -> StoreStats {
        self.cache.run_pending_tasks();
        StoreStats {
            entries: self.cache.entry_count() as usize,
            bytes: self.cache.weighted_size() as usize,
            evictions: self.let_go.evicted.load(Ordering::Relaxed),
            expirations: self.let_go.expired.load(Ordering::Relaxed),
            ..StoreStats::default()
        }
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
