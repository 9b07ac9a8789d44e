//! The store that outlives the process: a folder on a local disk.

mod blob;
mod builder;
mod engine;
mod error;
mod folder;
mod writes;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use foyer::Load;
use llmserve_core::error::guarded;
use parking_lot::RwLock;
use tokio::time::timeout;

pub use builder::DiskStoreBuilder;
pub use error::DiskBuildError;

use self::engine::Engine;
use self::folder::EpochsFile;
use super::queue::{Backlog, Queue, Write};
use super::{Lookup, Store, StoreStats};
use crate::entry::{Entry, Unusable};
use crate::epoch::Epochs;
use crate::key::Key;

/// Answers on a local disk, within a number of bytes: [foyer](https://docs.rs/foyer), which writes
/// them one after another into blocks, and gives up the oldest block when there is no other. Stands
/// behind a memory store, in a [`Tiered`](crate::Tiered).
///
/// It survives being killed at any moment. What was being written then is lost, and what is damaged
/// on disk, however it came to be, is a miss. Lookups and writes are the work of a thread of the
/// store's own; whatever goes wrong is a miss and one of [`StoreStats::failures`]. After a write
/// that failed, as on a full disk, everything is for a second; then the disk is tried again.
///
/// [`Epochs::invalidate`] returns when the disk knows, which takes milliseconds. Epochs that were
/// lost make everything old. Dropping a store waits until what it was given is written.
///
/// A folder belongs to one store at a time. Prompts and answers are readable to whoever can read
/// it.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::{Answer, DiskStore, Entry, Key, Store};
/// use llmserve_core::Request;
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
///
/// let store = DiskStore::builder(folder).capacity(64 << 20).build()?;
/// let key = Arc::new(Key::new("", &Request::text("Hi")).expect("cacheable"));
/// let answer = Answer::new(&[]).expect("known events");
/// store.put(Entry::new(key, answer, store.epochs().stamp([])));
/// drop(store);
/// // It is there for the next process, and so are the epochs.
/// let store = DiskStore::builder(folder).capacity(64 << 20).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DiskStore {
    shared: Arc<Shared>,
    epochs: Arc<Epochs>,
    /// None, and its thread done, once dropped.
    queue: Option<Queue>,
    thread: Option<JoinHandle<()>>,
    max_entry_size: usize,
}

/// What lookups and the store's thread share.
struct Shared {
    /// None: the disk has failed it, and there is no other yet.
    engine: RwLock<Option<Engine>>,
    epochs_file: Arc<EpochsFile>,
    limit: Duration,
    backlog: Arc<Backlog>,
    failures: AtomicU64,
    unusable: AtomicU64,
    expired: AtomicU64,
}

impl DiskStore {
    /// Starts making one in `folder`.
    pub fn builder(folder: impl Into<PathBuf>) -> DiskStoreBuilder {
        DiskStoreBuilder::new(folder.into())
    }

    /// Waits until everything put and removed so far is written or given up, at most for `limit`.
    /// True if it is. Blocks the thread; not for use in asynchronous code.
    pub fn flush(&self, limit: Duration) -> bool {
        self.shared.backlog.wait(limit, || true)
    }

    fn offer(&self, write: Write) {
        let taken = self.queue.as_ref().is_some_and(|queue| queue.offer(write));
        if !taken {
            self.shared.count_failure();
        }
    }
}

impl Shared {
    fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn set_engine(&self, engine: Option<Engine>) {
        let before = std::mem::replace(&mut *self.engine.write(), engine);
        drop(before);
    }

    async fn fetch(self: Arc<Self>, engine: Engine, key: Arc<Key>) -> Option<Entry> {
        let hash = key.hash128();
        let loaded = timeout(self.limit, engine.blobs.storage().load(&hash)).await;
        let blob = match loaded {
            Ok(Ok(Load::Entry { value, .. })) => value,
            Ok(Ok(Load::Piece { piece, .. })) => piece.value().clone(),
            Ok(Ok(Load::Miss)) => return None,
            Ok(Ok(Load::Throttled) | Err(_)) | Err(_) => {
                self.count_failure();
                return None;
            }
        };
        if blob.0.is_empty() {
            return None;
        }
        match Entry::from_bytes(&key, &blob.0) {
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

impl Store for DiskStore {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        let engine = self.shared.engine.read().clone();
        let Some(engine) = engine else {
            self.shared.count_failure();
            return Lookup::unknown();
        };
        // Its index is in memory, so most misses take no time. One whose write has failed may panic.
        let there = guarded(|| engine.blobs.storage().may_contains(&key.hash128()));
        if there != Ok(true) {
            if there.is_err() {
                self.shared.count_failure();
                return Lookup::unknown();
            }
            return Lookup::Ready(None);
        }
        let (shared, key) = (self.shared.clone(), key.clone());
        Lookup::Pending(Box::pin(async move {
            // A task of its own, so that the time limit runs where there is a clock for it.
            let handle = engine.handle.clone();
            let fetching = shared.clone().fetch(engine, key);
            match handle.spawn(fetching).await {
                Ok(found) => found,
                Err(_) => {
                    shared.count_failure();
                    None
                }
            }
        }))
    }

    fn put(&self, entry: Entry) {
        if entry.size() > self.max_entry_size {
            return self.shared.count_failure();
        }
        self.offer(Write::Put(entry));
    }

    fn remove(&self, key: &Arc<Key>) {
        // Though it is not there: it may be queued.
        self.offer(Write::Remove(key.clone()));
    }

    fn epochs(&self) -> &Arc<Epochs> {
        &self.epochs
    }

    fn max_entry_size(&self) -> usize {
        self.max_entry_size
    }

    /// Only what went wrong: what the blocks hold is not counted.
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

impl Drop for DiskStore {
    fn drop(&mut self) {
        // The thread ends with what is queued; then the folder is free.
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStore")
            .field("max_entry_size", &self.max_entry_size)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
