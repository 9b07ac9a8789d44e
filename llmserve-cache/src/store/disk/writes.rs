//! Writing what is to be stored.

use std::sync::Arc;
use std::time::Duration;

use foyer::HybridCache;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::Shared;
use super::blob::Blob;
use super::engine::Layout;
use crate::store::queue::{Waiting, Write};

/// Writes that are taken from the queue together.
const AT_ONCE: usize = 64;

/// The longest the disk takes for what was given to it; then it is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How writing came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// The queue was dropped, and all that was in it is written.
    Dropped,
    /// Something could not be written, and this engine is not to be trusted any more.
    Failed,
}

/// Writes what is queued, at most half a buffer at a time.
pub(super) async fn write(
    shared: Arc<Shared>,
    blobs: HybridCache<u128, Blob>,
    mut queue: OwnedMutexGuard<Waiting>,
    layout: Layout,
) -> Done {
    while let Some(mut batch) = queue.next(AT_ONCE).await {
        let mut left = batch.drain();
        let (mut under_way, mut keys) = (0, Vec::with_capacity(AT_ONCE));
        while let Some(write) = left.next() {
            let (key, blob) = match write {
                Write::Put(entry) => (entry.key.hash128(), entry.to_bytes()),
                // Written over with nothing, as what is only forgotten is found again next time.
                Write::Remove(key) => (key.hash128(), Vec::new()),
            };
            if under_way + blob.len() > layout.at_once() {
                if !settle(&shared, &blobs, &mut keys).await {
                    // This one, and what comes after it.
                    (0..left.count() + 1).for_each(|_| shared.count_failure());
                    return Done::Failed;
                }
                under_way = 0;
            }
            under_way += blob.len();
            keys.push(key);
            let writer = blobs.storage_writer(key).force();
            writer.insert(Blob(blob.into()));
        }
        if !settle(&shared, &blobs, &mut keys).await {
            return Done::Failed;
        }
        shared.epochs_file.mend();
    }
    let _ = timeout(PATIENCE, blobs.close()).await;
    Done::Dropped
}

/// Waits until all of it is on disk, and counts what is not. False if anything is not.
async fn settle(shared: &Shared, blobs: &HybridCache<u128, Blob>, keys: &mut Vec<u128>) -> bool {
    let storage = blobs.storage();
    let settled = timeout(PATIENCE, storage.wait()).await.is_ok();
    let mut all = true;
    for key in keys.drain(..) {
        if !settled || !storage.may_contains(&key) {
            shared.count_failure();
            all = false;
        }
    }
    all
}
