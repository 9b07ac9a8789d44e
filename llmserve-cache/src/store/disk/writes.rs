//! Writing what is to be stored.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shared;
use super::blob::Blob;
use crate::store::queue::Write;

/// Writes that are taken from the queue together.
const AT_ONCE: usize = 64;

/// The longest the disk takes for what was given to it; then it is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes what is queued, until the queue is dropped and empty. Never more than half a block is
/// under way, which is less than foyer has buffers for, so that it drops nothing unsaid.
pub(super) async fn write(shared: &Arc<Shared>, mut queue: mpsc::Receiver<Write>, block: usize) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while queue.recv_many(&mut batch, AT_ONCE).await > 0 {
        let (writes, bytes) = (batch.len(), batch.iter().map(Write::size).sum());
        let (mut under_way, mut keys) = (0, Vec::with_capacity(batch.len()));
        for write in batch.drain(..) {
            let (key, blob) = match write {
                Write::Put(entry) => (entry.key.hash128(), entry.to_bytes()),
                // Written over with nothing, as what is only forgotten is found again next time.
                Write::Remove(key) => (key.hash128(), Vec::new()),
            };
            if under_way + blob.len() > block / 2 {
                settle(shared, &mut keys).await;
                under_way = 0;
            }
            under_way += blob.len();
            keys.push(key);
            let writer = shared.blobs.storage_writer(key).force();
            writer.insert(Blob(blob.into()));
        }
        settle(shared, &mut keys).await;
        shared.backlog.left(writes, bytes);
    }
}

/// Waits until all of it is on disk, and counts what is not.
async fn settle(shared: &Shared, keys: &mut Vec<u128>) {
    let storage = shared.blobs.storage();
    let settled = timeout(PATIENCE, storage.wait()).await.is_ok();
    for key in keys.drain(..) {
        if !settled || !storage.may_contains(&key) {
            shared.count_failure();
        }
    }
}
