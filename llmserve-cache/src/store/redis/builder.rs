//! Making a Redis store.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::breaker::Breaker;
use super::client::{Source, Terms};
use super::epochs::{self, Sync};
use super::error::RedisBuildError;
use super::link::{self, Link};
use super::writes;
use super::{RedisStore, Shared};
use crate::store::queue::{Backlog, Queue, Waiting};

/// The settings of a [`RedisStore`].
///
/// ```
/// use std::time::Duration;
/// use llmserve_cache::RedisStore;
/// // Needs no server to be up.
/// let store = RedisStore::builder("redis://user:secret@localhost:1/0")
///     .prefix("chat:")
///     .time_limit(Duration::from_millis(20))
///     .connections(4)
///     .build()?;
/// assert!(!format!("{store:?}").contains("secret"));
/// # Ok::<(), llmserve_cache::RedisBuildError>(())
/// ```
#[must_use = "a store is made by build()"]
pub struct RedisStoreBuilder {
    urls: Vec<String>,
    cluster: bool,
    root_certificate: Option<Vec<u8>>,
    prefix: String,
    time_limit: Duration,
    patience: Duration,
    connections: usize,
    queue: usize,
    queue_bytes: usize,
    max_entry_size: usize,
    breaker: (u32, Duration),
    refresh: Duration,
    runtime: Option<Handle>,
}

impl RedisStoreBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            urls: vec![url],
            cluster: false,
            root_certificate: None,
            prefix: "llmserve:".to_owned(),
            time_limit: Duration::from_millis(50),
            patience: Duration::from_secs(1),
            connections: 2,
            queue: 4_096,
            queue_bytes: 64 << 20,
            max_entry_size: 8 << 20,
            breaker: (5, Duration::from_secs(1)),
            refresh: Duration::from_secs(1),
            runtime: None,
        }
    }

    /// Another node of the cluster, and that it is one. Any of its nodes leads to all others;
    /// several are for when one is down at the start.
    pub fn node(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Whether the server is a cluster's. Default: yes if there is more than one
    /// [`node`](Self::node).
    pub fn cluster(mut self, cluster: bool) -> Self {
        self.cluster = cluster;
        self
    }

    /// The certificate authority to trust with `rediss://`, as PEM. Default: those that the
    /// operating system trusts.
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// What all keys begin with, so that several caches, or other things, share a server. Default:
    /// `llmserve:`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The longest a lookup takes; then it is a miss. Default: 50 ms.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// The longest that connecting takes, and a write or a refresh of the epochs, for which nobody
    /// waits. Default: 1 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Connections, to each node in a cluster. Many lookups share one; more of them keep a large
    /// answer from holding up small ones. Default: 2.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Writes that wait to be sent, at most so many and of so many bytes together. What comes
    /// beyond is dropped, and counted. Default: 4096 of 64 MiB.
    pub fn queue(mut self, writes: usize, bytes: usize) -> Self {
        (self.queue, self.queue_bytes) = (writes, bytes);
        self
    }

    /// The largest entry that is sent, in bytes. Default: 8 MiB.
    pub fn max_entry_size(mut self, bytes: usize) -> Self {
        self.max_entry_size = bytes;
        self
    }

    /// After so many failed lookups in a row none is tried for so long; then one at a time, until
    /// it succeeds. Default: 5, and 1 s.
    pub fn breaker(mut self, failures: u32, cooldown: Duration) -> Self {
        self.breaker = (failures, cooldown);
        self
    }

    /// How often what other hosts have invalidated is looked for: what they make old is given out
    /// here for so long at most, and for ten times as long while looking fails. Default: 1 s.
    pub fn epoch_refresh(mut self, every: Duration) -> Self {
        self.refresh = every;
        self
    }

    /// Works on this runtime, which must have its I/O and time enabled, instead of a thread of the
    /// store's own.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Checks the settings and begins to connect. That there is no server yet, or no more, is no
    /// error: until there is one, everything misses.
    ///
    /// # Errors
    /// [`RedisBuildError`], naming the setting.
    pub fn build(self) -> Result<RedisStore, RedisBuildError> {
        let moment = Duration::from_millis(1);
        at_least("time_limit", "1 ms", self.time_limit.as_millis(), 1)?;
        at_least("connect_timeout", "1 ms", self.patience.as_millis(), 1)?;
        at_least("epoch_refresh", "1 ms", self.refresh.as_millis(), 1)?;
        at_least("connections", "1", self.connections, 1)?;
        Queue::check(self.queue).map_err(|_| RedisBuildError::Setting {
            setting: "queue",
            given: self.queue.to_string(),
            least: "1 write, and no more than a queue can have",
        })?;
        at_least("breaker", "1 failure", self.breaker.0, 1)?;
        let source = Source::new(
            &self.urls,
            Terms {
                cluster: self.cluster || self.urls.len() > 1,
                patience: self.patience,
                limit: self.time_limit,
                root_certificate: self.root_certificate,
            },
        )?;
        let (handle, own) = match self.runtime {
            Some(handle) => (handle, None),
            None => {
                let own = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|error| RedisBuildError::Thread(error.to_string()))?;
                (own.handle().clone(), Some(own))
            }
        };
        let backlog = Arc::<Backlog>::default();
        let epochs = Arc::default();
        let sync = Sync::new(
            &self.prefix,
            self.refresh,
            Arc::clone(&epochs),
            backlog.clone(),
        );
        let (queue, waiting) = Queue::new(self.queue, self.queue_bytes, backlog.clone());
        let shared = Arc::new(Shared {
            source,
            prefix: self.prefix,
            limit: self.time_limit,
            patience: self.patience,
            links: (0..self.connections).map(|_| Link::default()).collect(),
            breaker: Breaker::new(self.breaker.0, self.breaker.1.max(moment)),
            sync,
            backlog,
            handle: handle.clone(),
            failures: AtomicU64::new(0),
            unusable: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            last_error: Mutex::default(),
        });
        let work = work(shared.clone(), waiting, self.refresh);
        match own {
            None => drop(handle.spawn(work)),
            Some(own) => drop(
                std::thread::Builder::new()
                    .name("llmserve-redis".to_owned())
                    .spawn(move || own.block_on(work))
                    .map_err(|error| RedisBuildError::Thread(error.to_string()))?,
            ),
        }
        Ok(RedisStore {
            shared,
            epochs,
            queue,
            max_entry_size: self.max_entry_size,
        })
    }
}

/// All that a store does by itself, until it is dropped and what it was given is sent.
async fn work(shared: Arc<Shared>, waiting: Waiting, refresh: Duration) {
    // Dropped at the end, and with it all of them.
    let mut until_dropped = JoinSet::new();
    for index in 0..shared.links.len() {
        until_dropped.spawn(link::keep(shared.clone(), index));
    }
    until_dropped.spawn(epochs::refresh(shared.clone(), refresh));
    writes::send(shared, waiting).await;
}

fn at_least<T: Display + PartialOrd>(
    setting: &'static str,
    least: &'static str,
    given: T,
    bound: T,
) -> Result<(), RedisBuildError> {
    match given >= bound {
        true => Ok(()),
        false => Err(RedisBuildError::Setting {
            setting,
            given: given.to_string(),
            least,
        }),
    }
}

impl std::fmt::Debug for RedisStoreBuilder {
    /// Without addresses, which may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("nodes", &self.urls.len())
            .field("prefix", &self.prefix)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}
