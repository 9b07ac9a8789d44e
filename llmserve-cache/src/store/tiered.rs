//! A near store before a far one.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use llmserve_core::error::guarded;

use super::{LookingUp, Lookup, Store, StoreStats};
use crate::entry::Entry;
use crate::epoch::Epochs;
use crate::key::Key;

/// Two stores as one: asked in order, and what the far one finds is kept near for the rest of its
/// time. Nests, for more than two.
///
/// ```text
///  get ──► near ── hit ─────────────────► answer
///            └─ miss ──► far ── hit ──┬─► answer
///                                     └─► near.put, for the time it has left
///  put ──► near, far
/// ```
///
/// The far store's epochs are those of both, as others may share it. A near store that panics is as
/// good as empty, and each time one of [`StoreStats::failures`].
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::{Answer, Entry, Key, MemoryStore, Stamp, Store, Tiered};
/// use llmserve_core::Request;
///
/// let (near, far) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
/// let tiers = Tiered::new(near.clone(), far.clone());
/// let key = Arc::new(Key::new("", &Request::text("Hi")).expect("cacheable"));
/// let answer = Answer::new(&[]).expect("known events");
/// far.put(Entry::new(key.clone(), answer, Stamp::default()));
///
/// tiers.get(&key);
/// assert_eq!(near.stats().entries, 1);
/// ```
pub struct Tiered<N, F> {
    near: Arc<N>,
    far: Arc<F>,
    near_failures: Arc<AtomicU64>,
}

impl<N: Store, F: Store> Tiered<N, F> {
    /// `near` is asked first.
    pub fn new(near: N, far: F) -> Self {
        Self {
            near: Arc::new(near),
            far: Arc::new(far),
            near_failures: Arc::default(),
        }
    }

    /// The store that is asked first.
    pub fn near(&self) -> &N {
        &self.near
    }

    /// The store that is asked when the near one does not know.
    pub fn far(&self) -> &F {
        &self.far
    }
}

impl<N: Store + 'static, F: Store + 'static> Store for Tiered<N, F> {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        let near = self.promoting();
        match near.ask(|store| store.get(key)) {
            Some(Lookup::Ready(Some(entry))) => Lookup::Ready(Some(entry)),
            Some(Lookup::Ready(None)) | None => match self.far.get(key) {
                Lookup::Ready(found) => Lookup::Ready(near.promote(key, found)),
                Lookup::Pending(lookup) => {
                    let key = key.clone();
                    Lookup::Pending(Box::pin(async move { near.promote(&key, lookup.await) }))
                }
            },
            Some(Lookup::Pending(lookup)) => {
                let (far, key) = (self.far.clone(), key.clone());
                Lookup::Pending(Box::pin(async move {
                    match near.wait(lookup).await {
                        Some(entry) => Some(entry),
                        None => match far.get(&key) {
                            Lookup::Ready(found) => near.promote(&key, found),
                            Lookup::Pending(lookup) => near.promote(&key, lookup.await),
                        },
                    }
                }))
            }
        }
    }

    fn put(&self, entry: Entry) {
        self.promoting().keep(&entry);
        if entry.size() <= self.far.max_entry_size() {
            self.far.put(entry);
        }
    }

    fn remove(&self, key: &Arc<Key>) {
        self.promoting().ask(|store| store.remove(key));
        self.far.remove(key);
    }

    fn epochs(&self) -> &Arc<Epochs> {
        self.far.epochs()
    }

    fn max_entry_size(&self) -> usize {
        let near = self.promoting().ask(N::max_entry_size).unwrap_or(0);
        near.max(self.far.max_entry_size())
    }

    /// Both together, except for entries and bytes, which are the near store's: the far one holds
    /// the same answers.
    fn stats(&self) -> StoreStats {
        let near = self.promoting().ask(N::stats).unwrap_or_default();
        let mut both = near + self.far.stats();
        (both.entries, both.bytes) = (near.entries, near.bytes);
        let failures = self.near_failures.load(Ordering::Relaxed);
        both.failures = both.failures.saturating_add(failures);
        both
    }
}

impl<N: Store, F: Store> Tiered<N, F> {
    fn promoting(&self) -> Near<N> {
        Near {
            store: self.near.clone(),
            failures: self.near_failures.clone(),
        }
    }
}

/// The near store, whose panics must not lose what the far one has.
struct Near<N> {
    store: Arc<N>,
    failures: Arc<AtomicU64>,
}

impl<N: Store> Near<N> {
    fn ask<T>(&self, ask: impl FnOnce(&N) -> T) -> Option<T> {
        let asked = guarded(|| ask(&self.store)).ok();
        if asked.is_none() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        asked
    }

    /// What a lookup finds that takes time.
    async fn wait(&self, mut lookup: LookingUp) -> Option<Entry> {
        let found = poll_fn(|cx| {
            let polled = self.ask(|_| lookup.as_mut().poll(cx));
            polled.unwrap_or(Poll::Ready(None))
        })
        .await;
        self.ask(|_| drop(lookup));
        found
    }

    fn keep(&self, entry: &Entry) {
        self.ask(|store| {
            if entry.size() <= store.max_entry_size() {
                store.put(entry.clone());
            }
        });
    }

    /// Keeps near what was found far, unless something has come there meanwhile: that is newer, and
    /// may be what makes the other forgotten.
    fn promote(&self, key: &Arc<Key>, found: Option<Entry>) -> Option<Entry> {
        let entry = found?;
        match self.ask(|store| store.get(key)) {
            Some(Lookup::Ready(Some(newer))) => Some(newer),
            _ => {
                self.keep(&entry);
                Some(entry)
            }
        }
    }
}

impl<N: Store, F: Store> std::fmt::Debug for Tiered<N, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tiered")
            .field("near", &self.promoting().ask(N::stats))
            .field("far", &self.far.stats())
            .finish()
    }
}
