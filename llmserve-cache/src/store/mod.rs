//! Where answers are kept: the contract.

#[cfg(feature = "disk")]
pub(crate) mod disk;
pub(crate) mod memory;
#[cfg(any(feature = "redis", feature = "disk"))]
pub(crate) mod queue;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod tiered;

use std::pin::Pin;
use std::sync::Arc;

use crate::entry::Entry;
use crate::epoch::Epochs;
use crate::key::Key;

/// What a store finds, now or later.
#[non_exhaustive]
pub enum Lookup {
    /// Known at once; none is a miss.
    Ready(Option<Entry>),
    /// Known later. Polled by whoever reads a stream that waits for it; dropped when nobody does.
    /// It must come to an end by itself: the layer sets it no limit.
    Pending(LookingUp),
}

impl Lookup {
    /// Nothing is found, but not because there is nothing: the store is out of reach. What takes time
    /// may always be that, so nobody concludes from it that an answer is gone.
    pub fn unknown() -> Self {
        Self::Pending(Box::pin(std::future::ready(None)))
    }
}

/// A lookup under way.
pub type LookingUp = Pin<Box<dyn Future<Output = Option<Entry>> + Send>>;

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lookup::Ready(found) => f.debug_tuple("Ready").field(found).finish(),
            Lookup::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// Keeps answers by key.
///
/// Called from many threads at once, on those that call `generate()` and read streams, so nothing
/// here may block: what takes time comes as [`Lookup::Pending`], or is handed to a thread of the
/// store's own. A store may forget anything at any time, and what it cannot read is a miss; it
/// has no way to fail. A panic in it is caught and counts as a miss.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::{CacheLayer, Entry, Epochs, Key, Lookup, Store, StoreStats};
///
/// /// Remembers nothing.
/// #[derive(Default)]
/// struct Nothing(Arc<Epochs>);
/// impl Store for Nothing {
///     fn get(&self, _key: &Arc<Key>) -> Lookup {
///         Lookup::Ready(None)
///     }
///     fn put(&self, _entry: Entry) {}
///     fn remove(&self, _key: &Arc<Key>) {}
///     fn epochs(&self) -> &Arc<Epochs> {
///         &self.0
///     }
///     fn max_entry_size(&self) -> usize {
///         0
///     }
///     fn stats(&self) -> StoreStats {
///         StoreStats::default()
///     }
/// }
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let cached = CacheLayer::builder(Closed).store(Nothing::default()).build()?;
/// assert_eq!(cached.generate(Request::text("Hi")).wait(), Err(Error::ShutDown));
/// assert_eq!(cached.stats().misses, 1);
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
pub trait Store: Send + Sync {
    /// The entry kept under a key with exactly these bytes, with its age and the time it has left.
    /// Whether its stamp still counts is for whoever asks to see.
    fn get(&self, key: &Arc<Key>) -> Lookup;

    /// Keeps an entry for as long as it says, in place of any other under its key. Called only
    /// with entries that [`max_entry_size`](Self::max_entry_size) allows.
    fn put(&self, entry: Entry);

    /// Forgets what is kept under a key.
    fn remove(&self, key: &Arc<Key>);

    /// The epochs that count for what is kept here: [`Epochs::invalidate`] makes entries old. A
    /// store that outlives the process, or that several share, keeps or shares them as well.
    fn epochs(&self) -> &Arc<Epochs>;

    /// The largest entry worth offering, in bytes of [`Entry::size`]. A recording that outgrows it
    /// is given up at once.
    fn max_entry_size(&self) -> usize;

    /// What the store holds and has let go.
    fn stats(&self) -> StoreStats;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        (**self).get(key)
    }
    fn put(&self, entry: Entry) {
        (**self).put(entry);
    }
    fn remove(&self, key: &Arc<Key>) {
        (**self).remove(key);
    }
    fn epochs(&self) -> &Arc<Epochs> {
        (**self).epochs()
    }
    fn max_entry_size(&self) -> usize {
        (**self).max_entry_size()
    }
    fn stats(&self) -> StoreStats {
        (**self).stats()
    }
}

/// What a store holds and has let go.
///
/// ```
/// use llmserve_cache::{MemoryStore, Store, StoreStats};
/// assert_eq!(MemoryStore::default().stats(), StoreStats::default());
/// // A store of the host's own fills in what it knows.
/// let mut stats = StoreStats::default();
/// stats.entries = 3;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Answers held, where the store knows.
    pub entries: usize,
    /// Bytes they take, with keys and bookkeeping, where the store knows.
    pub bytes: usize,
    /// Answers given up to make room, ever.
    pub evictions: u64,
    /// Answers forgotten because their time was over, ever.
    pub expirations: u64,
    /// Lookups that could not be answered, and entries that could not be kept: a connection, a
    /// disk, a time limit, a full queue.
    pub failures: u64,
    /// Entries found that were damaged, foreign, or of another version.
    pub unusable: u64,
}

impl std::ops::Add for StoreStats {
    type Output = Self;

    /// Both together.
    fn add(self, other: Self) -> Self {
        Self {
            entries: self.entries.saturating_add(other.entries),
            bytes: self.bytes.saturating_add(other.bytes),
            evictions: self.evictions.saturating_add(other.evictions),
            expirations: self.expirations.saturating_add(other.expirations),
            failures: self.failures.saturating_add(other.failures),
            unusable: self.unusable.saturating_add(other.unusable),
        }
    }
}
