//! What keeps the blobs, and another in its place where the disk has failed it.
//!
//! ```text
//!  open ──► serving: lookups, writes ── dropped ──► closed
//!   ▲            │ a write fails
//!   └── pause ◄──┘ everything is a miss, and nothing is written
//! ```
//!
//! Foyer does not get over a write that failed: its tables may then say that a block is both free
//! and full, which ends it some writes later. So it is opened anew, as after a restart, with a
//! runtime of its own that takes all its tasks and buffers with it.

use std::sync::Arc;
use std::time::Duration;

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    PsyncIoEngineConfig, RecoverMode,
};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::blob::Blob;
use super::folder::Folder;
use super::{Shared, writes};
use crate::store::queue::Waiting;

/// The disk is given up, and lost, in blocks: small enough that one is little of the whole, and
/// not more of them than files that a process may well open.
const BLOCKS: usize = 16;
const LARGEST_BLOCK: usize = 16 << 20;
const MOST_BLOCKS: usize = 256;
const PAGE: usize = 4_096;

/// Threads that read and write files.
const FILE_THREADS: usize = 4;

/// After a write that failed, before the next is tried.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes that are given up together.
const AT_ONCE: usize = 64;

/// The longest that an engine takes to end; then it is left behind.
const PATIENCE: Duration = Duration::from_secs(10);

/// An engine that serves, and where its work is done.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) blobs: HybridCache<u128, Blob>,
    pub(super) handle: Handle,
}

/// How a capacity is divided.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Bytes of a block.
    block: usize,
    blocks: usize,
}

impl Layout {
    pub(super) fn of(capacity: usize) -> Self {
        let block = (capacity / BLOCKS).min(LARGEST_BLOCK);
        let block = block.max(capacity.div_ceil(MOST_BLOCKS)) / PAGE * PAGE;
        Self {
            block,
            blocks: capacity / block,
        }
    }

    /// Most bytes of one entry, and of what is under way: less than foyer has buffers for, so that
    /// it drops nothing unsaid.
    pub(super) fn at_once(self) -> usize {
        self.buffer() / 2
    }

    fn buffer(self) -> usize {
        self.block.min(LARGEST_BLOCK)
    }
}

/// An engine's runtime.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .build()
}

/// Keeps an engine serving, until what writes are queued in is dropped and empty. `opened` is told
/// once what came of the first.
pub(super) fn serve(
    shared: &Arc<Shared>,
    folder: &Folder,
    layout: Layout,
    waiting: Waiting,
    first: Runtime,
    opened: impl FnOnce(Result<(), String>),
) {
    let waiting = Arc::new(Mutex::new(waiting));
    let (mut next, mut opened) = (Some(first), Some(opened));
    loop {
        let Some(runtime) = next.take().or_else(|| runtime().ok()) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        let again = runtime.block_on(async {
            if opened.is_none() && !pause(shared, &waiting).await {
                return false;
            }
            let mut blobs = open(folder, layout).await;
            if blobs.is_err() && folder.clear(layout.block).is_ok() {
                blobs = open(folder, layout).await;
            }
            let opened = opened.take();
            let blobs = match (blobs, opened) {
                (Ok(blobs), opened) => {
                    shared.set_engine(Some(Engine {
                        blobs: blobs.clone(),
                        handle: runtime.handle().clone(),
                    }));
                    if let Some(opened) = opened {
                        opened(Ok(()));
                    }
                    blobs
                }
                (Err(reason), Some(opened)) => {
                    opened(Err(reason));
                    return false;
                }
                (Err(_), None) => return true,
            };
            shared.epochs_file.mend();
            // A task of its own, as whatever panics in foyer must not end this thread.
            let waiting = waiting.clone().lock_owned().await;
            let (shared, writing) = (shared.clone(), blobs.clone());
            let write = writes::write(shared, writing, waiting, layout);
            let done = tokio::spawn(write).await;
            done.unwrap_or(writes::Done::Failed) == writes::Done::Failed
        });
        shared.set_engine(None);
        runtime.shutdown_timeout(PATIENCE);
        if !again {
            return;
        }
    }
}

/// Gives up what is to be written, for a while. False: nothing more comes.
async fn pause(shared: &Shared, waiting: &Mutex<Waiting>) -> bool {
    let give_up = async {
        let mut waiting = waiting.lock().await;
        while let Some(mut batch) = waiting.next(AT_ONCE).await {
            batch.drain().for_each(|_| shared.count_failure());
        }
    };
    timeout(PAUSE, give_up).await.is_err()
}

async fn open(folder: &Folder, layout: Layout) -> Result<HybridCache<u128, Blob>, String> {
    let Layout { block, blocks } = layout;
    let path = folder.blocks(block, blocks);
    let path = path.map_err(|error| error.to_string())?;
    let device = FsDeviceBuilder::new(path)
        .with_capacity(blocks * block)
        .build()
        .map_err(|error| error.to_string())?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(block)
        .with_buffer_pool_size(2 * layout.buffer())
        .with_submit_queue_size_threshold(4 * layout.buffer());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_few_and_within_the_capacity() {
        for shift in 20..47 {
            for capacity in [1 << shift, (1 << shift) + 4_095, (3 << shift) - 1] {
                let layout = Layout::of(capacity);
                assert!(layout.block * layout.blocks <= capacity);
                assert!(
                    (BLOCKS..=MOST_BLOCKS + 1).contains(&layout.blocks),
                    "{capacity}"
                );
                assert!(layout.at_once() <= LARGEST_BLOCK / 2);
                assert_eq!(layout.block % PAGE, 0);
            }
        }
        // As it always was, so that folders are found as they were left.
        assert_eq!(Layout::of(1 << 30).block, 16 << 20);
        assert_eq!(Layout::of(1 << 20).block, 64 << 10);
    }
}
