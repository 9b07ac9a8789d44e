//! Making a layer.

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{
    Clock, Generate, GuardedRecorder, NoopRecorder, Recorder, Request, SystemClock,
};

use super::semantic::Level;
use super::{CacheLayer, OnAnswer, Semantic, Shared, Tags};
use crate::error::BuildError;
use crate::flight::Flights;
use crate::policy::Policy;
use crate::stats::Counters;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::trace::Source;

/// What a tenth of a time to live spreads is an hour in ten, and seldom missed.
const DEFAULT_TTL_JITTER: f64 = 0.1;

/// The parts of a [`CacheLayer`].
///
/// ```
/// use std::time::Duration;
/// use llmserve_cache::{CacheLayer, MemoryStore, Policy};
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let cached = CacheLayer::builder(Engine)
///     .store(MemoryStore::builder().max_bytes(16 << 20).build()?)
///     .policy(Policy::default().truncated(true))
///     .ttl(Duration::from_secs(3_600))
///     .on_answer(|id, source| println!("{id:?} came from {source:?}"))
///     .build()?;
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
#[must_use = "a layer is made by build()"]
pub struct CacheLayerBuilder {
    inner: Arc<dyn Generate>,
    store: Option<Box<dyn Store>>,
    namespace: String,
    policy: Policy,
    ttl: Option<Duration>,
    ttl_jitter: f64,
    single_flight: bool,
    semantic: Option<Semantic>,
    tags: Option<Arc<Tags>>,
    told: Option<Arc<OnAnswer>>,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
}

impl CacheLayerBuilder {
    pub(super) fn new(inner: Arc<dyn Generate>) -> Self {
        Self {
            inner,
            store: None,
            namespace: String::new(),
            policy: Policy::default(),
            ttl: None,
            ttl_jitter: DEFAULT_TTL_JITTER,
            single_flight: true,
            semantic: None,
            tags: None,
            told: None,
            clock: Arc::new(SystemClock::new()),
            recorder: Arc::new(NoopRecorder),
        }
    }

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

    /// Which requests take part and which answers are kept. Default: [`Policy::default`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How long an answer is given out after it was stored, used or not. Default: for ever, as
    /// what is deterministic does not age by itself.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The largest share of the time to live that may be taken off an answer's, by its key, so
    /// that answers stored together do not end together. From 0 to below 1. Default: 0.1.
    pub fn ttl_jitter(mut self, share: f64) -> Self {
        self.ttl_jitter = share;
        self
    }

    /// Whether equal requests that arrive together share one run. Default: yes.
    pub fn single_flight(mut self, single_flight: bool) -> Self {
        self.single_flight = single_flight;
        self
    }

    /// Whether a question that means what an earlier one meant gets that one's answer, and how that
    /// is found out. Default: no.
    pub fn semantic(mut self, semantic: Semantic) -> Self {
        self.semantic = Some(semantic);
        self
    }

    /// The tags of a request's answer, by which it can be [invalidated](CacheLayer::invalidate):
    /// the documents in its prompt, say. Called on the thread that calls `generate()`, once for each
    /// request that takes part; equal requests must have equal tags. If it panics, the request takes
    /// no part. Default: none.
    pub fn tags(mut self, tags: impl Fn(&Request) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.tags = Some(Arc::new(tags));
        self
    }

    /// Told once a request, with its id, where its answer comes from, as soon as that is known.
    /// Called on the threads that call `generate()` and read streams, so it must not block.
    pub fn on_answer(
        mut self,
        told: impl Fn(Option<&str>, Source) + Send + Sync + 'static,
    ) -> Self {
        self.told = Some(Arc::new(told));
        self
    }

    /// The time that a hit's timings are measured with. Default: [`SystemClock`]. Entries age by
    /// their store's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where the layer's metrics go, named `llmserve_cache_…`. One that panics is not heard, and
    /// hurts no request. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Checks the settings and puts the parts together.
    ///
    /// # Errors
    /// [`BuildError`], naming the setting.
    pub fn build(self) -> Result<CacheLayer, BuildError> {
        if let Some(ttl) = self.ttl
            && ttl < Duration::from_millis(1)
        {
            return Err(BuildError::Ttl(ttl));
        }
        if !(0.0..1.0).contains(&self.ttl_jitter) {
            return Err(BuildError::TtlJitter(self.ttl_jitter));
        }
        if let Some(semantic) = &self.semantic {
            semantic.check()?;
        }
        Ok(self.make())
    }

    pub(super) fn make(self) -> CacheLayer {
        CacheLayer {
            shared: Arc::new(Shared {
                inner: self.inner,
                store: self
                    .store
                    .unwrap_or_else(|| Box::new(MemoryStore::default())),
                namespace: self.namespace,
                policy: self.policy,
                ttl: self.ttl,
                ttl_jitter: self.ttl_jitter,
                single_flight: self.single_flight,
                semantic: self.semantic.map(Level::start),
                tags: self.tags,
                told: self.told,
                clock: self.clock,
                counters: Counters::new(&GuardedRecorder::new(self.recorder)),
                flights: Flights::default(),
            }),
        }
    }
}

impl std::fmt::Debug for CacheLayerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheLayerBuilder")
            .field("namespace", &self.namespace)
            .field("policy", &self.policy)
            .field("ttl", &self.ttl)
            .field("ttl_jitter", &self.ttl_jitter)
            .field("single_flight", &self.single_flight)
            .field("semantic", &self.semantic)
            .finish_non_exhaustive()
    }
}
