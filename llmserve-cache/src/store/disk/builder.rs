//! Making a disk store.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::RwLock;

use super::engine::{self, Layout};
use super::error::DiskBuildError;
use super::folder::Folder;
use super::{DiskStore, Shared};
use crate::store::queue::{Backlog, Queue};

/// What makes sixteen blocks of the smallest size.
const LEAST_CAPACITY: usize = 1 << 20;

/// The limits of a [`DiskStore`].
///
/// ```
/// use llmserve_cache::{DiskStore, Store};
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let store = DiskStore::builder(folder).capacity(256 << 20).build()?;
/// assert!(store.max_entry_size() >= 4 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a store is made by build()"]
#[derive(Debug)]
pub struct DiskStoreBuilder {
    folder: PathBuf,
    capacity: usize,
    time_limit: Duration,
    queue: usize,
    queue_bytes: usize,
}

impl DiskStoreBuilder {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            capacity: 1 << 30,
            time_limit: Duration::from_millis(100),
            queue: 4_096,
            queue_bytes: 64 << 20,
        }
    }

    /// Most bytes of entries on disk, at least 1 MiB. The epochs take up to 2 MiB besides. Default:
    /// 1 GiB.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    /// The longest a lookup takes; then it is a miss. Default: 100 ms.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Writes that wait for the disk, at most so many and of so many bytes together. What comes
    /// beyond is dropped, and counted. Default: 4096 of 64 MiB.
    pub fn queue(mut self, writes: usize, bytes: usize) -> Self {
        (self.queue, self.queue_bytes) = (writes, bytes);
        self
    }

    /// Takes the folder, making it if it is not there, and finds what is in it. Reads one page of
    /// every block or more, so it blocks for a while.
    ///
    /// # Errors
    /// [`DiskBuildError`]. What is damaged in the folder is none.
    pub fn build(self) -> Result<DiskStore, DiskBuildError> {
        if self.capacity < LEAST_CAPACITY {
            return Err(DiskBuildError::Capacity {
                given: self.capacity,
                least: LEAST_CAPACITY,
            });
        }
        if self.time_limit < Duration::from_millis(1) {
            return Err(DiskBuildError::TimeLimit);
        }
        Queue::check(self.queue).map_err(|most| DiskBuildError::Queue {
            given: self.queue,
            most,
        })?;
        let folder = Folder::open(&self.folder)?;
        let failed = |reason: String| DiskBuildError::Folder {
            folder: self.folder.clone(),
            reason,
        };
        let (epochs, epochs_file) = folder.epochs().map_err(|error| failed(error.to_string()))?;
        let layout = Layout::of(self.capacity);
        let no_thread = |error: std::io::Error| DiskBuildError::Thread(error.to_string());
        let runtime = engine::runtime().map_err(no_thread)?;
        let backlog = Arc::<Backlog>::default();
        let (queue, waiting) = Queue::new(self.queue, self.queue_bytes, backlog.clone());
        let shared = Arc::new(Shared {
            engine: RwLock::default(),
            epochs_file,
            limit: self.time_limit,
            backlog,
            failures: AtomicU64::new(0),
            unusable: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        });
        let (tell, told) = std::sync::mpsc::channel();
        let serving = shared.clone();
        let work = move || {
            let opened = |opened| drop(tell.send(opened));
            // The folder goes with it: only then may another have it.
            engine::serve(&serving, &folder, layout, waiting, runtime, opened);
        };
        let thread = std::thread::Builder::new()
            .name("llmserve-disk".to_owned())
            .spawn(work)
            .map_err(no_thread)?;
        match told.recv() {
            Ok(Ok(())) => Ok(DiskStore {
                shared,
                epochs,
                queue: Some(queue),
                thread: Some(thread),
                max_entry_size: layout.at_once(),
            }),
            Ok(Err(reason)) => Err(failed(reason)),
            Err(_) => Err(failed("it cannot be opened".to_owned())),
        }
    }
}
