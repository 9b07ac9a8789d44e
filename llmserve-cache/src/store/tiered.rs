//! A near store before a far one.

use std::sync::Arc;

use llmserve_core::error::guarded;

use super::{Lookup, Store, StoreStats};
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
/// The far store's epochs are those of both, as others may share it.
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
}

impl<N: Store, F: Store> Tiered<N, F> {
    /// `near` is asked first.
    pub fn new(near: N, far: F) -> Self {
        Self {
            near: Arc::new(near),
            far: Arc::new(far),
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
        match self.near.get(key) {
            Lookup::Ready(Some(entry)) => Lookup::Ready(Some(entry)),
            Lookup::Ready(None) => match self.far.get(key) {
                Lookup::Ready(found) => Lookup::Ready(promote(&*self.near, found)),
                Lookup::Pending(lookup) => {
                    let near = self.near.clone();
                    Lookup::Pending(Box::pin(async move { promote(&*near, lookup.await) }))
                }
            },
            Lookup::Pending(lookup) => {
                let (near, far, key) = (self.near.clone(), self.far.clone(), key.clone());
                Lookup::Pending(Box::pin(async move {
                    match lookup.await {
                        Some(entry) => Some(entry),
                        None => match far.get(&key) {
                            Lookup::Ready(found) => promote(&*near, found),
                            Lookup::Pending(lookup) => promote(&*near, lookup.await),
                        },
                    }
                }))
            }
        }
    }

    fn put(&self, entry: Entry) {
        if entry.size() <= self.near.max_entry_size() {
            self.near.put(entry.clone());
        }
        if entry.size() <= self.far.max_entry_size() {
            self.far.put(entry);
        }
    }

    fn remove(&self, key: &Arc<Key>) {
        self.near.remove(key);
        self.far.remove(key);
    }

    fn epochs(&self) -> &Arc<Epochs> {
        self.far.epochs()
    }

    fn max_entry_size(&self) -> usize {
        self.near.max_entry_size().max(self.far.max_entry_size())
    }

    /// Both together, except for entries and bytes, which are the near store's: the far one holds
    /// the same answers.
    fn stats(&self) -> StoreStats {
        let near = self.near.stats();
        let mut both = near + self.far.stats();
        (both.entries, both.bytes) = (near.entries, near.bytes);
        both
    }
}

/// Keeps near what was found far.
fn promote(near: &impl Store, found: Option<Entry>) -> Option<Entry> {
    if let Some(entry) = &found
        && entry.size() <= near.max_entry_size()
    {
        // The answer is there: a near store that panics must not lose it.
        let _ = guarded(|| near.put(entry.clone()));
    }
    found
}

impl<N: Store, F: Store> std::fmt::Debug for Tiered<N, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tiered")
            .field("near", &self.near.stats())
            .field("far", &self.far.stats())
            .finish()
    }
}
