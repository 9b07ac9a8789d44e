//! Making a disk store.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCacheBuilder, PsyncIoEngineConfig,
    RecoverMode,
};

use super::error::DiskBuildError;
use super::folder::Folder;
use super::{Blobs, DiskStore, Shared, writes};
use crate::store::queue::{Backlog, Queue};

/// What makes sixteen blocks of the smallest size.
const LEAST_CAPACITY: usize = 1 << 20;

/// The disk is given up, and lost, in blocks: small enough that one is little of the whole.
const BLOCKS: usize = 16;
const LARGEST_BLOCK: usize = 16 << 20;
const PAGE: usize = 4_096;

/// Threads that read and write files.
const FILE_THREADS: usize = 4;

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
        let folder = Folder::open(&self.folder)?;
        let failed = |reason: String| DiskBuildError::Folder {
            folder: self.folder.clone(),
            reason,
        };
        let epochs = folder.epochs().map_err(|error| failed(error.to_string()))?;
        let block = (self.capacity / BLOCKS).min(LARGEST_BLOCK) / PAGE * PAGE;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(FILE_THREADS)
            .build()
            .map_err(|error| DiskBuildError::Thread(error.to_string()))?;
        let backlog = Arc::<Backlog>::default();
        let (queue, waiting) = Queue::new(self.queue, self.queue_bytes, backlog.clone());
        let (tell, told) = std::sync::mpsc::channel();
        let (capacity, limit) = (self.capacity, self.time_limit);
        let work = move || {
            let handle = runtime.handle().clone();
            runtime.block_on(async move {
                let mut blobs = open(&folder, block, capacity).await;
                if blobs.is_err() && folder.clear(block).is_ok() {
                    blobs = open(&folder, block, capacity).await;
                }
                let blobs = match blobs {
                    Ok(blobs) => blobs,
                    Err(reason) => return drop(tell.send(Err(reason))),
                };
                let shared = Arc::new(Shared {
                    blobs,
                    limit,
                    handle,
                    backlog,
                    failures: AtomicU64::new(0),
                    unusable: AtomicU64::new(0),
                    expired: AtomicU64::new(0),
                });
                let _ = tell.send(Ok(shared.clone()));
                writes::write(&shared, waiting, block).await;
                let _ = shared.blobs.close().await;
                // Only now may another have it.
                drop(folder);
            });
        };
        let thread = std::thread::Builder::new()
            .name("llmserve-disk".to_owned())
            .spawn(work)
            .map_err(|error| DiskBuildError::Thread(error.to_string()))?;
        match told.recv() {
            Ok(Ok(shared)) => Ok(DiskStore {
                shared,
                epochs,
                queue: Some(queue),
                thread: Some(thread),
                max_entry_size: block / 2,
            }),
            Ok(Err(reason)) => Err(failed(reason)),
            Err(_) => Err(failed("it cannot be opened".to_owned())),
        }
    }
}

async fn open(folder: &Folder, block: usize, capacity: usize) -> Result<Blobs, String> {
    let blocks = capacity / block;
    let path = folder.blocks(block, blocks);
    let path = path.map_err(|error| error.to_string())?;
    let device = FsDeviceBuilder::new(path)
        .with_capacity(blocks * block)
        .build()
        .map_err(|error| error.to_string())?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(block)
        .with_buffer_pool_size(2 * block)
        .with_submit_queue_size_threshold(4 * block);
    // What is near is the memory store's; here is only what a lookup is just reading.
    HybridCacheBuilder::new()
        .with_flush_on_close(false)
        .memory(BLOCKS)
        .with_shards(1)
        .storage()
        .with_io_engine_config(PsyncIoEngineConfig::new())
        .with_engine_config(engine)
        .with_recover_mode(RecoverMode::Quiet)
        .build()
        .await
        .map_err(|error| error.to_string())
}
