//! What each caller has used.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use llmserve_core::{
    Clock, Counter, Error, GuardedRecorder, NoopRecorder, Recorder, SystemClock, Time,
};
use parking_lot::Mutex;

use super::bucket::{Bucket, Mark};
use super::charge::Charge;
use super::rate::{Limit, Rate};

const SHARDS: usize = 64;
/// When all is full, all shards are searched for idle callers, and not again for so long.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
const DEFAULT_MAX_KEYS: usize = 1 << 20;

/// What is wrong with limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// A limit that lets nothing pass.
    #[error("{of}: {what} is 0, so no request could ever pass; leave the limit out or raise it")]
    Zero {
        /// Whose limit: a caller's key, or `"default"`.
        of: String,
        /// Which number.
        what: &'static str,
    },
    /// No caller could be remembered.
    #[error("max_keys is 0, so no caller could be remembered; raise it")]
    NoKeys,
}

/// Keeps callers to their limits. Cheap to clone; all clones are the same limiter.
///
/// A caller is a key: a tenant, an API key's name. Each has buckets of its own; what one uses is
/// nothing to another. Buckets of one key are changed under one lock, so that limits are exact
/// however many threads ask at once.
///
/// A caller whose buckets are full again and who has no request running is like one that was never
/// seen, and is forgotten when room is needed. More than `max_keys` are never remembered: then new
/// callers are refused until others have become idle.
///
/// ```
/// use llmserve_core::Error;
/// use llmserve_route::limits::{Limit, Limiter, Per, Rate};
/// let limiter = Limiter::builder()
///     .default_limit(Limit::default().tokens(Rate::new(1_000, Per::Minute)))
///     .limit("batch", Limit::default().concurrent(1))
///     .build()?;
///
/// let charge = limiter.reserve("acme", 800)?;
/// assert!(matches!(limiter.reserve("acme", 800), Err(Error::RateLimited { .. })));
/// // The answer was shorter than it might have been: the rest is given back.
/// charge.settle(150);
/// charge.settle(150); // Once is enough; twice does no harm.
/// assert!(limiter.reserve("acme", 800).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Limiter {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// Of those without one of their own.
    default: Arc<Limit>,
    limits: HashMap<Box<str>, Arc<Limit>>,
    max_keys: usize,
    /// Callers in all shards.
    known: AtomicUsize,
    /// When all shards may be swept again.
    next_sweep: Mutex<Time>,
    clock: Arc<dyn Clock>,
    charges: AtomicU64,
    refused: Refused,
}

/// Counters of refusals by what ran out.
struct Refused {
    requests: Arc<dyn Counter>,
    tokens: Arc<dyn Counter>,
    concurrent: Arc<dyn Counter>,
    keys: Arc<dyn Counter>,
}

#[derive(Default)]
struct Shard {
    callers: HashMap<Box<str>, Caller>,
    /// As many as there may be before idle ones are looked for.
    sweep_at: usize,
}

struct Caller {
    limit: Arc<Limit>,
    requests: Bucket,
    tokens: Bucket,
    running: usize,
}

/// What a caller owed when a request of its was let pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    requests: Mark,
    tokens: Mark,
}

impl Caller {
    fn is_idle(&mut self, now: Time) -> bool {
        let full = |bucket: &mut Bucket, rate: Option<&Rate>| {
            rate.is_none_or(|rate| bucket.is_full(rate, now))
        };
        self.running == 0
            && full(&mut self.requests, self.limit.requests.as_ref())
            && full(&mut self.tokens, self.limit.tokens.as_ref())
    }

    fn take(&mut self, tokens: u64, now: Time) -> Result<Marks, (Taken, Error)> {
        let limited = |limit: u64, unit, retry_after| Error::RateLimited {
            limit,
            unit,
            retry_after,
        };
        if let Some(most) = self.limit.concurrent
            && self.running >= most
        {
            let error = limited(most as u64, "requests at once", None);
            return Err((Taken::Concurrent, error));
        }
        if let Some(rate) = &self.limit.requests {
            self.requests.take(rate, 1, now).map_err(|wait| {
                let error = limited(rate.limit, rate.per.of_requests(), wait);
                (Taken::Requests, error)
            })?;
        }
        if let Some(rate) = &self.limit.tokens
            && let Err(wait) = self.tokens.take(rate, tokens, now)
        {
            // All or nothing.
            if let Some(rate) = &self.limit.requests {
                self.requests.give_back(rate, 1, now);
            }
            let error = limited(rate.limit, rate.per.of_tokens(), wait);
            return Err((Taken::Tokens, error));
        }
        self.running += 1;
        Ok(Marks {
            requests: self.requests.mark(),
            tokens: self.tokens.mark(),
        })
    }
}

/// What ran out.
enum Taken {
    Requests,
    Tokens,
    Concurrent,
}

impl Limiter {
    /// Starts putting a limiter together.
    pub fn builder() -> LimiterBuilder {
        LimiterBuilder {
            default: Limit::default(),
            limits: HashMap::new(),
            max_keys: DEFAULT_MAX_KEYS,
            clock: Arc::new(SystemClock::new()),
            recorder: Arc::new(NoopRecorder),
        }
    }

    /// Takes a place, a request and `tokens` for the caller `key`, all or nothing.
    ///
    /// # Errors
    /// [`Error::RateLimited`], with the time after which the same call may succeed; without one
    /// where it waits for another request's end, or where `tokens` exceed what may pass at once.
    /// [`Error::Overloaded`] where too many callers are known.
    pub fn reserve(&self, key: &str, tokens: u64) -> Result<Charge, Error> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let mut shard = shared.shard(key).lock();
        let taken = shared.caller(&mut shard, key, now)?.take(tokens, now);
        drop(shard);
        match taken {
            Ok(marks) => {
                let id = shared.charges.fetch_add(1, Ordering::Relaxed);
                Ok(Charge::new(self.clone(), key.into(), id, tokens, marks))
            }
            Err((what, error)) => {
                let counter = match what {
                    Taken::Requests => &shared.refused.requests,
                    Taken::Tokens => &shared.refused.tokens,
                    Taken::Concurrent => &shared.refused.concurrent,
                };
                counter.add(1);
                Err(error)
            }
        }
    }

    /// Callers that are remembered.
    pub fn callers(&self) -> usize {
        let shards = self.shared.shards.iter();
        shards.map(|shard| shard.lock().callers.len()).sum()
    }

    /// Requests running, of all callers.
    pub fn running(&self) -> usize {
        let running = |shard: &Mutex<Shard>| -> usize {
            let shard = shard.lock();
            shard.callers.values().map(|caller| caller.running).sum()
        };
        self.shared.shards.iter().map(running).sum()
    }

    /// Corrects what was reserved to what it came to.
    pub(super) fn settle(&self, key: &str, reserved: u64, marks: &Marks, spent: u64) {
        let Some(more) = spent.checked_sub(reserved) else {
            return self.with(key, |caller, now| {
                if let Some(rate) = &caller.limit.tokens {
                    let unspent = reserved - spent;
                    let tokens = &mut caller.tokens;
                    tokens.give_back_since(marks.tokens, rate, unspent, now);
                }
            });
        };
        let now = self.shared.clock.now();
        let mut shard = self.shared.shard(key).lock();
        // Also of somebody who was forgotten meanwhile. Where there is no room, it is let pass.
        if let Ok(caller) = self.shared.caller(&mut shard, key, now)
            && let Some(rate) = &caller.limit.tokens
        {
            caller.tokens.spend(rate, more, now);
        }
    }

    /// Undoes a reservation but for the place.
    pub(super) fn refund(&self, key: &str, reserved: u64, marks: &Marks) {
        self.with(key, |caller, now| {
            if let Some(rate) = &caller.limit.tokens {
                let tokens = &mut caller.tokens;
                tokens.give_back_since(marks.tokens, rate, reserved, now);
            }
            if let Some(rate) = &caller.limit.requests {
                let requests = &mut caller.requests;
                requests.give_back_since(marks.requests, rate, 1, now);
            }
        });
    }

    /// Gives a place back.
    pub(super) fn release(&self, key: &str) {
        self.with(key, |caller, _| {
            caller.running = caller.running.saturating_sub(1);
        });
    }

    /// A caller without running requests may have been forgotten; then its buckets were full, and
    /// nothing can be given back.
    fn with(&self, key: &str, change: impl FnOnce(&mut Caller, Time)) {
        let now = self.shared.clock.now();
        if let Some(caller) = self.shared.shard(key).lock().callers.get_mut(key) {
            change(caller, now);
        }
    }
}

impl Shared {
    /// The caller `key`, remembered from now on.
    fn caller<'a>(
        &self,
        shard: &'a mut Shard,
        key: &str,
        now: Time,
    ) -> Result<&'a mut Caller, Error> {
        if !shard.callers.contains_key(key) {
            self.make_room(shard, now)?;
        }
        Ok(shard.callers.entry(key.into()).or_insert_with(|| {
            self.known.fetch_add(1, Ordering::Relaxed);
            let limit = self.limits.get(key).unwrap_or(&self.default);
            Caller {
                limit: limit.clone(),
                requests: Bucket::default(),
                tokens: Bucket::default(),
                running: 0,
            }
        }))
    }

    /// Room for one more caller in `shard`.
    fn make_room(&self, shard: &mut Shard, now: Time) -> Result<(), Error> {
        let is_full = || self.known.load(Ordering::Relaxed) >= self.max_keys;
        // Whenever their number has doubled, so that it costs each newcomer little.
        if shard.callers.len() >= shard.sweep_at {
            self.sweep(shard, now);
        }
        if is_full() && self.may_sweep_all(now) {
            self.sweep(shard, now);
            // One that is locked, this one included, is in use: it is not waited for.
            for mut other in self.shards.iter().filter_map(Mutex::try_lock) {
                self.sweep(&mut other, now);
            }
        }
        if !is_full() {
            return Ok(());
        }
        self.refused.keys.add(1);
        Err(Error::Overloaded {
            waiting: self.known.load(Ordering::Relaxed),
            limit: self.max_keys,
            unit: "callers",
            retry_after: Some(SWEEP_PAUSE),
        })
    }

    fn may_sweep_all(&self, now: Time) -> bool {
        let mut next = self.next_sweep.lock();
        let may = now >= *next;
        if may {
            *next = now.saturating_add(SWEEP_PAUSE);
        }
        may
    }

    /// Forgets idle callers.
    fn sweep(&self, shard: &mut Shard, now: Time) {
        let before = shard.callers.len();
        shard.callers.retain(|_, caller| !caller.is_idle(now));
        let after = shard.callers.len();
        self.known.fetch_sub(before - after, Ordering::Relaxed);
        shard.sweep_at = (after * 2).max(16);
        shard.callers.shrink_to(shard.sweep_at);
    }

    fn shard(&self, key: &str) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

impl std::fmt::Debug for Limiter {
    /// No keys: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter")
            .field("default", &self.shared.default)
            .field("callers", &self.callers())
            .finish_non_exhaustive()
    }
}

/// The parts of a [`Limiter`].
#[must_use = "a limiter is made by build()"]
pub struct LimiterBuilder {
    default: Limit,
    limits: HashMap<Box<str>, Arc<Limit>>,
    max_keys: usize,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
}

impl LimiterBuilder {
    /// What callers without a limit of their own may ask for. Default: nothing is limited.
    pub fn default_limit(mut self, limit: Limit) -> Self {
        self.default = limit;
        self
    }

    /// What the caller `key` may ask for, in the place of the default.
    pub fn limit(mut self, key: impl Into<String>, limit: Limit) -> Self {
        let key = key.into().into_boxed_str();
        self.limits.insert(key, Arc::new(limit));
        self
    }

    /// Most callers remembered at a time, give or take one for each thread that asks at once; at
    /// least 1. Default: 1,048,576.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// What time it is. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Counts refusals in `llmserve_route_limited_total{by}`, `by` being `requests`, `tokens`,
    /// `concurrent` or `keys`. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Arc::new(GuardedRecorder::new(recorder));
        self
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// [`LimitsError`], naming the limit.
    pub fn build(self) -> Result<Limiter, LimitsError> {
        check("default", &self.default)?;
        for (key, limit) in &self.limits {
            check(key, limit)?;
        }
        if self.max_keys == 0 {
            return Err(LimitsError::NoKeys);
        }
        let counter = |by| {
            let help = "Requests refused by a limit.";
            let labels = [("by", by)];
            self.recorder
                .counter("llmserve_route_limited_total", help, &labels)
        };
        let refused = Refused {
            requests: counter("requests"),
            tokens: counter("tokens"),
            concurrent: counter("concurrent"),
            keys: counter("keys"),
        };
        Ok(Limiter {
            shared: Arc::new(Shared {
                shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
                hasher: RandomState::new(),
                default: Arc::new(self.default),
                limits: self.limits,
                max_keys: self.max_keys,
                known: AtomicUsize::new(0),
                next_sweep: Mutex::default(),
                clock: self.clock,
                charges: AtomicU64::new(0),
                refused,
            }),
        })
    }
}

fn check(of: &str, limit: &Limit) -> Result<(), LimitsError> {
    let rate = |rate: Option<Rate>, limit, burst| {
        let numbers = rate.map(|rate| [(rate.limit, limit), (rate.most_at_once(), burst)]);
        numbers.into_iter().flatten()
    };
    let mut numbers = rate(limit.requests, "requests.limit", "requests.burst")
        .chain(rate(limit.tokens, "tokens.limit", "tokens.burst"))
        .chain(limit.concurrent.map(|most| (most as u64, "concurrent")));
    match numbers.find(|(number, _)| *number == 0) {
        Some((_, what)) => Err(LimitsError::Zero {
            of: of.to_owned(),
            what,
        }),
        None => Ok(()),
    }
}
