//! The service around the service.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llmserve_core::{Clock, EventStream, Generate, Request, SystemClock};

use crate::answer::Answer;
use crate::key::Key;
use crate::memory::MemoryStore;
use crate::stats::{CacheStats, Counters};
use crate::store::{Lookup, Store};
use crate::stream::Cached;

/// An exact cache of answers around anything that generates. Cheap to clone; all clones are the
/// same cache.
///
/// A hit is the recorded answer, event for event: same tokens, texts, logprobs and usage, as if
/// the model had run. Only the timings are the hit's own, all three being the time until it was
/// found. Nothing of a hit reaches the inner service, so it also answers when that is overloaded
/// or shut down.
///
/// An answer is stored when its stream has been read to its very end, past the last event, and
/// every choice finished by itself. Equal requests that arrive together all run (there is no
/// single flight), and the last to end is the one kept.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use llmserve_cache::{CacheLayer, MemoryStore};
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// // Two models, one budget of memory.
/// let store = Arc::new(MemoryStore::builder().ttl(Duration::from_secs(600)).build()?);
/// let small = CacheLayer::builder(Engine).store(store.clone()).namespace("small@1").build();
/// let large = CacheLayer::builder(Engine).store(store).namespace("large@1").build();
///
/// // An error passes through, and is not stored.
/// assert_eq!(small.generate(Request::text("Hi")).wait(), Err(Error::ShutDown));
/// assert_eq!(small.stats().stored, 0);
/// assert_eq!(large.stats().misses, 0);
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
#[derive(Clone)]
pub struct CacheLayer {
    shared: Arc<Shared>,
}

/// What the handles and the streams of one layer share.
pub(crate) struct Shared {
    pub(crate) inner: Arc<dyn Generate>,
    pub(crate) store: Box<dyn Store>,
    pub(crate) namespace: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
}

impl CacheLayer {
    /// A layer around `inner` with a [`MemoryStore`] of default limits.
    pub fn new(inner: impl Generate + 'static) -> Self {
        Self::builder(inner).build()
    }

    /// Starts making a layer around `inner`.
    pub fn builder(inner: impl Generate + 'static) -> CacheLayerBuilder {
        CacheLayerBuilder {
            inner: Arc::new(inner),
            store: None,
            namespace: String::new(),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// The layer's counters, and what its store holds.
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        let store = shared.guarded(|store| store.stats());
        shared.counters.with_store(store.unwrap_or_default())
    }
}

impl Generate for CacheLayer {
    fn generate(&self, request: Request) -> EventStream {
        let shared = &self.shared;
        let called = shared.clock.now();
        let Some(key) = Key::new(&shared.namespace, &request) else {
            shared.counters.bypassed.one();
            return shared.inner.generate(request);
        };
        EventStream::new(Cached::start(
            shared.clone(),
            Arc::new(key),
            request,
            called,
        ))
    }
}

impl Shared {
    pub(crate) fn get(&self, key: &Arc<Key>) -> Lookup {
        self.guarded(|store| store.get(key))
            .unwrap_or(Lookup::Ready(None))
    }

    pub(crate) fn put(&self, key: Arc<Key>, answer: Answer) {
        if self
            .guarded(|store| store.put(key, Arc::new(answer)))
            .is_some()
        {
            self.counters.stored.one();
        }
    }

    /// Bytes an answer under `key` may have.
    pub(crate) fn room(&self, key: &Key) -> usize {
        let most = self.guarded(|store| store.max_entry_size()).unwrap_or(0);
        most.saturating_sub(key.bytes().len())
    }

    /// A broken store must not break a request.
    fn guarded<T>(&self, ask: impl FnOnce(&dyn Store) -> T) -> Option<T> {
        let answer = catch_unwind(AssertUnwindSafe(|| ask(&*self.store)));
        if answer.is_err() {
            self.counters.store_failures.one();
        }
        answer.ok()
    }
}

impl std::fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheLayer")
            .field("namespace", &self.shared.namespace)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The parts of a [`CacheLayer`].
///
/// ```
/// use llmserve_cache::{CacheLayer, MemoryStore};
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let cached = CacheLayer::builder(Engine)
///     .store(MemoryStore::builder().max_bytes(16 << 20).build()?)
///     .build();
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
#[must_use = "a layer is made by build()"]
pub struct CacheLayerBuilder {
    inner: Arc<dyn Generate>,
    store: Option<Box<dyn Store>>,
    namespace: String,
    clock: Arc<dyn Clock>,
}

impl CacheLayerBuilder {
    /// Where answers are kept. Default: [`MemoryStore::default`].
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// A name for all that the inner service is and that requests do not say: which weights,
    /// which revision, which default. It enters every key, so layers with different names share a
    /// store without sharing answers, and a new name makes old answers unfindable. Default: empty.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The time that a hit's timings are measured with. Default: [`SystemClock`]. A time to live
    /// is measured by the store, with its own.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Puts the parts together. There is nothing about them that could be wrong: what can be, the
    /// store's limits, its own builder has checked.
    pub fn build(self) -> CacheLayer {
        CacheLayer {
            shared: Arc::new(Shared {
                inner: self.inner,
                store: self
                    .store
                    .unwrap_or_else(|| Box::new(MemoryStore::default())),
                namespace: self.namespace,
                clock: self.clock,
                counters: Counters::default(),
            }),
        }
    }
}

impl std::fmt::Debug for CacheLayerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheLayerBuilder")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
