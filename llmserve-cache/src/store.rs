//! Where answers are kept: the contract.

use std::pin::Pin;
use std::sync::Arc;

use crate::answer::Answer;
use crate::key::Key;

/// What a store finds, now or later.
#[non_exhaustive]
pub enum Lookup {
    /// Known at once; none is a miss.
    Ready(Option<Arc<Answer>>),
    /// Known later. Polled by whoever reads the stream; dropped when the stream is. It must come
    /// to an end by itself: the layer sets it no limit.
    Pending(Pin<Box<dyn Future<Output = Option<Arc<Answer>>> + Send>>),
}

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
/// use llmserve_cache::{Answer, CacheLayer, Key, Lookup, Store, StoreStats};
///
/// /// Remembers nothing.
/// struct Nothing;
/// impl Store for Nothing {
///     fn get(&self, _key: &Arc<Key>) -> Lookup {
///         Lookup::Ready(None)
///     }
///     fn put(&self, _key: Arc<Key>, _answer: Arc<Answer>) {}
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
/// let cached = CacheLayer::builder(Closed).store(Nothing).build();
/// assert_eq!(cached.generate(Request::text("Hi")).wait(), Err(Error::ShutDown));
/// assert_eq!(cached.stats().misses, 1);
/// ```
pub trait Store: Send + Sync {
    /// The answer kept under a key with exactly these bytes.
    fn get(&self, key: &Arc<Key>) -> Lookup;

    /// Keeps an answer, in place of any other under this key. Called only with answers that
    /// [`max_entry_size`](Self::max_entry_size) allows.
    fn put(&self, key: Arc<Key>, answer: Arc<Answer>);

    /// The largest entry worth offering: bytes of [`Key::bytes`] and [`Answer::size`] together.
    /// A recording that outgrows it is given up at once.
    fn max_entry_size(&self) -> usize;

    /// What the store holds and has let go.
    fn stats(&self) -> StoreStats;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        (**self).get(key)
    }
    fn put(&self, key: Arc<Key>, answer: Arc<Answer>) {
        (**self).put(key, answer);
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
    /// Answers held.
    pub entries: usize,
    /// Bytes they take, with keys and bookkeeping.
    pub bytes: usize,
    /// Answers given up to make room, ever.
    pub evictions: u64,
    /// Answers forgotten because their time was over, ever.
    pub expirations: u64,
}
