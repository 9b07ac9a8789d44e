//! The store that several hosts share: a Redis server, or a cluster.
//!
//! ```text
//!  get ──► breaker ──► a link's connection ──► GET, within the time limit ──► Entry::from_bytes
//!  put ──► queue ──► writer ──► SET … PX          (the store's own thread, or the host's runtime)
//!  invalidate ──► epochs here ──► pending ──► HSET <prefix>epochs
//!                      ▲                            │ every second, if its revision is new
//!                      └────────────────────────────┘
//! ```

mod breaker;
mod builder;
mod client;
mod epochs;
mod error;
mod link;
mod seen;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, RedisError, Value, cmd};
use tokio::runtime::Handle;
use tokio::time::timeout;

pub use builder::RedisStoreBuilder;
pub use error::RedisBuildError;

use self::breaker::Breaker;
use self::client::Source;
use self::epochs::Sync;
use self::link::{Link, Live, too_late};
use super::queue::{Backlog, Queue, Write};
use super::{Lookup, Store, StoreStats};
use crate::entry::{Entry, Unusable};
use crate::epoch::Epochs;
use crate::key::Key;

/// Answers in Redis, for all hosts that use the same server, or cluster, and prefix.
///
/// A lookup is one `GET` on a connection that many share, and a miss once its time is over; a
/// write is queued and sent by a thread of the store's own. Whatever goes wrong is a miss and one
/// of [`StoreStats::failures`]. A server that is gone costs a lookup nothing: no connection is
/// waited for, and after some lookups in a row that failed none is tried for a while.
///
/// Entries lie under the prefix and the key's hash in hexadecimal, as [`Entry::to_bytes`], with
/// their time to live as Redis's own; what they answer is compared in full. [`Epochs`] are shared
/// through a hash `<prefix>epochs`: an invalidation counts here at once, elsewhere within the
/// [refresh](RedisStoreBuilder::epoch_refresh), and one made while the server is gone is kept until
/// it is back. A hash that was lost makes everything old, never anything new.
///
/// Prompts and answers are readable to whoever can read the server.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::{CacheLayer, MemoryStore, RedisStore, Tiered};
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// // Nobody listens there, which is no error: every lookup is a miss.
/// let shared = RedisStore::builder("redis://127.0.0.1:1").build()?;
/// let cached = CacheLayer::builder(Engine)
///     .store(Tiered::new(MemoryStore::default(), shared))
///     .build()?;
/// assert_eq!(cached.generate(Request::text("Hi")).wait(), Err(Error::ShutDown));
/// assert_eq!(cached.stats().misses, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RedisStore {
    shared: Arc<Shared>,
    epochs: Arc<Epochs>,
    /// Dropped with the store, which ends its work once it is empty.
    queue: Queue,
    max_entry_size: usize,
}

/// What lookups and the store's own work share.
struct Shared {
    source: Source,
    prefix: String,
    limit: Duration,
    patience: Duration,
    links: Box<[Link]>,
    breaker: Breaker,
    sync: Sync,
    backlog: Arc<Backlog>,
    handle: Handle,
    failures: AtomicU64,
    unusable: AtomicU64,
    expired: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl RedisStore {
    /// Starts making one with the server at `url`: `redis://` or, with TLS, `rediss://`, then
    /// optionally `user:password@`, the host, and optionally `:port` and `/database`.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }

    /// Whether there is a connection, and the epochs are known.
    pub fn is_connected(&self) -> bool {
        let shared = &self.shared;
        shared.links.iter().any(Link::is_live) && shared.sync.is_fresh(Instant::now())
    }

    /// What went wrong last, for whoever looks after the server.
    pub fn last_error(&self) -> Option<String> {
        self.shared.last_error.lock().clone()
    }

    /// Waits until everything put, removed and invalidated so far is sent or given up, at most for
    /// `limit`: before a process ends, or to be sure that others see it. True if it is.
    ///
    /// Blocks the thread; not for use in asynchronous code.
    pub fn flush(&self, limit: Duration) -> bool {
        let shared = &self.shared;
        shared.backlog.wait(limit, || !shared.sync.is_behind())
    }
}

impl Shared {
    /// The same for a key at all times, so that what is written to it stays in order.
    fn link(&self, key: &Key) -> &Link {
        &self.links[(key.hash128() % self.links.len() as u128) as usize]
    }

    /// The key's name in Redis.
    fn place(&self, key: &Key) -> String {
        format!("{}{:032x}", self.prefix, key.hash128())
    }

    fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, error: &RedisError) {
        *self.last_error.lock() = Some(error.to_string());
    }

    /// Takes note of a command that failed.
    fn failed(&self, link: &Link, live: &Live, error: &RedisError) {
        self.count_failure();
        self.note(error);
        if !live.connection.heals_itself() && error.is_unrecoverable_error() {
            link.withdraw(live);
        }
    }

    /// The bytes under a key, for a lookup.
    async fn fetch(self: Arc<Self>, key: Arc<Key>, mut live: Live, command: Cmd) -> Option<Entry> {
        let asked = timeout(self.limit, live.connection.ask(&command)).await;
        let found = match asked.unwrap_or_else(|_| Err(too_late())) {
            Ok(Value::BulkString(bytes)) => Some(bytes),
            Ok(Value::Nil) => None,
            // Another kind of value, of somebody else.
            Ok(_) => Some(Vec::new()),
            Err(error) if error.code() == Some("WRONGTYPE") => Some(Vec::new()),
            Err(error) => {
                self.failed(self.link(&key), &live, &error);
                // What answers nothing may never again: the next try is on new connections.
                if self.breaker.failed(Instant::now()) {
                    self.links.iter().for_each(Link::withdraw_any);
                }
                return None;
            }
        };
        self.breaker.succeeded();
        match Entry::from_bytes(&key, &found?) {
            Ok(entry) => Some(entry),
            Err(Unusable::Expired) => {
                self.expired.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(_) => {
                self.unusable.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Store for RedisStore {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        let shared = &self.shared;
        let now = Instant::now();
        let live = shared.link(key).live();
        let Some(live) = live.filter(|_| !shared.breaker.is_open(now)) else {
            shared.count_failure();
            return Lookup::unknown();
        };
        if !shared.sync.is_fresh(now) {
            shared.count_failure();
            return Lookup::unknown();
        }
        let (shared, key) = (shared.clone(), key.clone());
        Lookup::Pending(Box::pin(async move {
            if !shared.breaker.admits(Instant::now()) {
                shared.count_failure();
                return None;
            }
            let mut command = cmd("GET");
            command.arg(shared.place(&key));
            // A task of its own, so that the time limit runs where there is a clock for it, and
            // holds for what nobody waits for any more.
            let fetching = shared.clone().fetch(key, live, command);
            match shared.handle.spawn(fetching).await {
                Ok(found) => found,
                Err(_) => {
                    shared.count_failure();
                    None
                }
            }
        }))
    }

    fn put(&self, entry: Entry) {
        if entry.size() > self.max_entry_size || !self.queue.offer(Write::Put(entry)) {
            self.shared.count_failure();
        }
    }

    fn remove(&self, key: &Arc<Key>) {
        if !self.queue.offer(Write::Remove(key.clone())) {
            self.shared.count_failure();
        }
    }

    fn epochs(&self) -> &Arc<Epochs> {
        &self.epochs
    }

    fn max_entry_size(&self) -> usize {
        self.max_entry_size
    }

    /// Only what went wrong here: what the server holds, it knows itself.
    fn stats(&self) -> StoreStats {
        let shared = &self.shared;
        StoreStats {
            expirations: shared.expired.load(Ordering::Relaxed),
            failures: shared.failures.load(Ordering::Relaxed),
            unusable: shared.unusable.load(Ordering::Relaxed),
            ..StoreStats::default()
        }
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.shared.prefix)
            .field("connected", &self.is_connected())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
