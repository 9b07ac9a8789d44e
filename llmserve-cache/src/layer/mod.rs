//! The service around the service.

mod builder;
mod semantic;
mod stream;
mod work;

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::error::guarded;
use llmserve_core::{Clock, EventStream, Generate, Request};

pub use builder::CacheLayerBuilder;
pub use semantic::Semantic;

use crate::answer::Answer;
use crate::entry::Entry;
use crate::epoch::{Scope, Stamp, model_number, tag_number, tenant_number};
use crate::flight::Flights;
use crate::key::Key;
use crate::policy::Policy;
use crate::stats::{CacheStats, Counters};
use crate::store::{LookingUp, Lookup, Store};
use crate::trace::{Found, Source, Trace};
use semantic::Level;
use stream::Cached;
use work::Run;

/// An exact cache of answers around anything that generates. Cheap to clone; all clones are the
/// same cache.
///
/// A hit is the recorded answer, event for event: same tokens, texts, logprobs and usage, as if
/// the model had run. Only the timings are the hit's own, all three being the time until it was
/// found. Nothing of a hit reaches the inner service, so it also answers when that is overloaded
/// or shut down.
///
/// An answer is stored when its run has come to its very end and every choice ended by itself (a
/// [`Policy`] may ask for more or less). Equal requests that arrive together share one run: each
/// gets all of its events, at its own pace, and none depends on another that leaves, reads slowly,
/// or has a sooner deadline.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use llmserve_cache::{CacheLayer, MemoryStore, Scope};
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// // Two models, one budget of memory.
/// let store = Arc::new(MemoryStore::builder().max_bytes(256 << 20).build()?);
/// let small = CacheLayer::builder(Engine)
///     .store(store.clone())
///     .namespace("small@1")
///     .ttl(Duration::from_secs(3_600))
///     .build()?;
/// let large = CacheLayer::builder(Engine).store(store).namespace("large@1").build()?;
///
/// // An error passes through, and is not stored.
/// assert_eq!(small.generate(Request::text("Hi")).wait(), Err(Error::ShutDown));
/// assert_eq!(small.stats().stored, 0);
/// assert_eq!(large.stats().misses, 0);
///
/// // A tenant's documents have changed.
/// small.invalidate(&Scope::tenant("acme"));
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
#[derive(Clone)]
pub struct CacheLayer {
    shared: Arc<Shared>,
}

/// What the handles and the streams of one layer share.
pub(crate) struct Shared {
    inner: Arc<dyn Generate>,
    store: Box<dyn Store>,
    namespace: String,
    policy: Policy,
    ttl: Option<Duration>,
    ttl_jitter: f64,
    single_flight: bool,
    semantic: Option<Level>,
    tags: Option<Arc<Tags>>,
    told: Option<Arc<OnAnswer>>,
    clock: Arc<dyn Clock>,
    counters: Counters,
    flights: Flights<Run>,
}

/// Longer than any store takes to write what waits.
const TOMBSTONE: Duration = Duration::from_secs(60);

type Tags = dyn Fn(&Request) -> Vec<String> + Send + Sync;
type OnAnswer = dyn Fn(Option<&str>, Source) + Send + Sync;

impl CacheLayer {
    /// A layer around `inner` with a [`MemoryStore`](crate::MemoryStore) of default limits.
    pub fn new(inner: impl Generate + 'static) -> Self {
        Self::builder(inner).make()
    }

    /// Starts making a layer around `inner`.
    pub fn builder(inner: impl Generate + 'static) -> CacheLayerBuilder {
        CacheLayerBuilder::new(Arc::new(inner))
    }

    /// What [`generate`](Generate::generate) gives, and a handle that says where it comes from.
    pub fn generate_traced(&self, request: Request) -> (EventStream, Trace) {
        let trace = Trace::default();
        (self.start(request, trace.clone()), trace)
    }

    /// From now on every answer in `scope` that was begun before is a miss: stored, under way, or
    /// in other layers that share the store. A layer further out or further in has its own.
    pub fn invalidate(&self, scope: &Scope) {
        self.shared
            .guarded(|store| store.epochs().invalidate(scope));
    }

    /// Forgets the answer to one request, also that of a run under way: those who listen to it hear
    /// it, but nobody else, and it is not kept.
    pub fn forget(&self, request: &Request) {
        let key = Key::new(&self.shared.namespace, request);
        if let (Some(key), Some(nothing)) = (key, Answer::new(&[])) {
            self.shared.flights.disown(&key);
            // Something old in its place, at once: a store that takes time to remove would find it
            // until then, and a near one would keep what it found.
            let stamp = self.shared.guarded(|store| store.epochs().draw());
            let tombstone = Entry::new(Arc::new(key), nothing, Stamp(stamp.unwrap_or(0)));
            let tombstone = tombstone.ttl(Some(TOMBSTONE));
            self.shared.guarded(|store| store.put(tombstone));
        }
    }

    /// The layer's counters, and what its store holds.
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        let store = shared.guarded(|store| store.stats());
        let running = shared.flights.len();
        shared.counters.read(running, store.unwrap_or_default())
    }

    fn start(&self, request: Request, trace: Trace) -> EventStream {
        let shared = &self.shared;
        let called = shared.clock.now();
        let takes_part = || shared.policy.takes_part(&request);
        let takes_part = guarded(takes_part).unwrap_or(false);
        let known = || Key::new(&shared.namespace, &request).zip(shared.tags_of(&request));
        let Some((key, tags)) = takes_part.then(known).flatten() else {
            shared.tell(&trace, &request.id, Source::Bypassed);
            return shared.inner.generate(request);
        };
        EventStream::new(Cached::start(
            shared.clone(),
            Arc::new(key),
            tags,
            request,
            called,
            trace,
        ))
    }
}

impl Generate for CacheLayer {
    fn generate(&self, request: Request) -> EventStream {
        self.start(request, Trace::default())
    }
}

impl Shared {
    /// The stamp of a request's answer, were it begun now.
    fn stamp(&self, request: &Request, tags: &[u64]) -> Stamp {
        let tenant = request.tenant.as_deref().map(tenant_number);
        let model = request.model.as_deref().map(model_number);
        let tags = tags.iter().copied();
        let scopes = tenant.into_iter().chain(model).chain(tags);
        self.guarded(|store| store.epochs().stamp_of(scopes))
            .unwrap_or_default()
    }

    /// The numbers of a request's tags. None: they cannot be told, so that its answer would be
    /// given out though one of them was invalidated.
    fn tags_of(&self, request: &Request) -> Option<Box<[u64]>> {
        let Some(tags) = &self.tags else {
            return Some(Box::default());
        };
        let tags = guarded(|| tags(request)).ok()?;
        let mut tags: Vec<u64> = tags.iter().map(|tag| tag_number(tag)).collect();
        // They are a set: a host may take them from one that has no order.
        tags.sort_unstable();
        tags.dedup();
        Some(tags.into())
    }

    /// What the store knows at once, now that no run of `key` can land unseen.
    fn look_again(&self, key: &Arc<Key>, stamp: Stamp) -> Option<Found> {
        match self.guarded(|store| store.get(key))? {
            Lookup::Ready(Some(entry)) if entry.key == *key && entry.stamp == stamp => {
                Some(Found {
                    answer: entry.answer,
                    source: Source::Exact { age: entry.age },
                })
            }
            Lookup::Ready(_) => None,
            Lookup::Pending(lookup) => {
                self.guarded(|_| drop(lookup));
                None
            }
        }
    }

    /// What the store knows at once, or the lookup.
    fn look(&self, key: &Arc<Key>, stamp: Stamp) -> Result<Option<Found>, LookingUp> {
        match self.guarded(|store| store.get(key)) {
            Some(Lookup::Ready(found)) => Ok(self.fresh(key, found, stamp)),
            Some(Lookup::Pending(lookup)) => Err(lookup),
            None => Ok(None),
        }
    }

    /// What was found under `key`, if it still counts.
    fn fresh(&self, key: &Arc<Key>, found: Option<Entry>, stamp: Stamp) -> Option<Found> {
        let entry = found?;
        // A store of the host's may find by hash alone, which anybody can make two keys have. That
        // nobody gets another tenant's answer must not be its care.
        if entry.key != *key {
            self.counters.store_failure();
            return None;
        }
        if entry.answer.is_empty() {
            // Forgotten.
            return None;
        }
        if entry.stamp != stamp {
            // Left where it is: the next answer takes its place, and whoever is behind with the
            // epochs must not remove what is ahead of them.
            self.counters.stale();
            return None;
        }
        Some(Found {
            answer: entry.answer,
            source: Source::Exact { age: entry.age },
        })
    }

    fn put(&self, key: Arc<Key>, answer: Answer, stamp: Stamp) {
        let ttl = self.ttl.map(|ttl| jittered(ttl, self.ttl_jitter, &key));
        let entry = Entry::new(key, answer, stamp).ttl(ttl);
        if self.guarded(|store| store.put(entry)).is_some() {
            let stats = self.guarded(|store| store.stats());
            self.counters.stored(stats.unwrap_or_default());
        }
    }

    /// Bytes an answer under `key` may have.
    fn room(&self, key: &Key) -> usize {
        let most = self.guarded(|store| store.max_entry_size()).unwrap_or(0);
        most.saturating_sub(key.bytes().len())
    }

    /// Counts, and tells whoever wants to know, where an answer comes from.
    fn tell(&self, trace: &Trace, id: &Option<String>, source: Source) {
        trace.set(source);
        self.counters.source(source);
        if let Some(told) = &self.told {
            let _ = guarded(|| told(id.as_deref(), source));
        }
    }

    /// A broken store must not break a request.
    fn guarded<T>(&self, ask: impl FnOnce(&dyn Store) -> T) -> Option<T> {
        let answer = guarded(|| ask(&*self.store));
        if answer.is_err() {
            self.counters.store_failure();
        }
        answer.ok()
    }
}

/// A time to live with up to `jitter` of it taken off, so that what was stored together does not
/// end together. The key says how much, as chance of its own would not be repeatable.
fn jittered(ttl: Duration, jitter: f64, key: &Key) -> Duration {
    let chance = (key.hash128() >> 64) as u64 as f64 / u64::MAX as f64;
    ttl.saturating_sub(ttl.mul_f64(jitter * chance))
}

impl std::fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheLayer")
            .field("namespace", &self.shared.namespace)
            .field("policy", &self.shared.policy)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
