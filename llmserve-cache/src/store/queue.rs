//! What is to be stored, on its way to a store that takes time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, mpsc};

use crate::entry::Entry;
use crate::key::Key;

/// What a store is to do.
pub(crate) enum Write {
    Put(Entry),
    Remove(Arc<Key>),
}

impl Write {
    #[cfg(feature = "redis")]
    pub(crate) fn key(&self) -> &Arc<Key> {
        match self {
            Write::Put(entry) => &entry.key,
            Write::Remove(key) => key,
        }
    }

    pub(crate) fn size(&self) -> usize {
        match self {
            Write::Put(entry) => entry.size(),
            Write::Remove(key) => key.bytes().len(),
        }
    }
}

/// What is queued or being sent.
#[derive(Default)]
pub(crate) struct Backlog {
    writes: Mutex<usize>,
    bytes: AtomicUsize,
    changed: Condvar,
}

impl Backlog {
    /// Something that [`wait`](Self::wait) waits for may be so now.
    pub(crate) fn changed(&self) {
        let _writes = self.writes.lock();
        self.changed.notify_all();
    }

    /// Waits until no write is left and `done` holds, at most for `limit`.
    pub(crate) fn wait(&self, limit: Duration, done: impl Fn() -> bool) -> bool {
        // As good as for ever, where the clock does not reach so far.
        let until = Instant::now().checked_add(limit);
        let mut writes = self.writes.lock();
        while *writes > 0 || !done() {
            let Some(until) = until else {
                self.changed.wait(&mut writes);
                continue;
            };
            if self.changed.wait_until(&mut writes, until).timed_out() {
                return *writes == 0 && done();
            }
        }
        true
    }

    /// So many writes are done, or given up.
    fn left(&self, writes: usize, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        *self.writes.lock() -= writes;
        self.changed();
    }
}

/// The far end.
pub(crate) struct Waiting {
    receiver: mpsc::Receiver<Write>,
    backlog: Arc<Backlog>,
}

/// Writes taken from the queue together. They count as waiting until it is dropped, however that
/// comes to pass.
pub(crate) struct Batch {
    writes: Vec<Write>,
    taken: (usize, usize),
    backlog: Arc<Backlog>,
}

impl Waiting {
    /// What there is, at least one and at most so many; none once the queue is dropped and empty.
    pub(crate) async fn next(&mut self, most: usize) -> Option<Batch> {
        let mut writes = Vec::new();
        self.receiver.recv_many(&mut writes, most).await;
        let bytes = writes.iter().map(Write::size).sum();
        (!writes.is_empty()).then(|| Batch {
            taken: (writes.len(), bytes),
            writes,
            backlog: self.backlog.clone(),
        })
    }
}

impl Drop for Waiting {
    /// Nobody writes any more: what is still queued is given up, and nothing more is let in.
    fn drop(&mut self) {
        self.receiver.close();
        while let Ok(write) = self.receiver.try_recv() {
            self.backlog.left(1, write.size());
        }
    }
}

impl Batch {
    /// Takes them out, in order. The batch is to be kept until they are dealt with.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Write> + use<> {
        std::mem::take(&mut self.writes).into_iter()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let (writes, bytes) = self.taken;
        self.backlog.left(writes, bytes);
    }
}

/// The near end, which never waits.
pub(crate) struct Queue {
    sender: mpsc::Sender<Write>,
    backlog: Arc<Backlog>,
    most_bytes: usize,
}

impl Queue {
    /// Whether so many writes may wait.
    ///
    /// # Errors
    /// How many may at most.
    pub(crate) fn check(length: usize) -> Result<(), usize> {
        match (1..=Semaphore::MAX_PERMITS).contains(&length) {
            true => Ok(()),
            false => Err(Semaphore::MAX_PERMITS),
        }
    }

    pub(crate) fn new(length: usize, most_bytes: usize, backlog: Arc<Backlog>) -> (Self, Waiting) {
        let (sender, receiver) = mpsc::channel(length);
        let waiting = Waiting {
            receiver,
            backlog: backlog.clone(),
        };
        let queue = Self {
            sender,
            backlog,
            most_bytes,
        };
        (queue, waiting)
    }

    /// False: there is no room.
    pub(crate) fn offer(&self, write: Write) -> bool {
        let size = write.size();
        let before = self.backlog.bytes.fetch_add(size, Ordering::Relaxed);
        *self.backlog.writes.lock() += 1;
        // One alone is let in, whatever its size.
        let fits = before == 0 || before.saturating_add(size) <= self.most_bytes;
        let taken = fits && self.sender.try_send(write).is_ok();
        if !taken {
            self.backlog.left(1, size);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use llmserve_core::Request;

    use super::*;

    #[test]
    fn what_nobody_writes_any_more_is_not_waited_for() {
        let backlog = Arc::<Backlog>::default();
        let (queue, mut waiting) = Queue::new(8, 1 << 20, backlog.clone());
        let key = Arc::new(Key::new("", &Request::text("")).unwrap());
        let offer = || queue.offer(Write::Remove(key.clone()));
        assert!((0..4).all(|_| offer()));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let next = std::pin::pin!(waiting.next(2)).poll(&mut cx);
        let std::task::Poll::Ready(Some(mut batch)) = next else {
            panic!("there are four");
        };
        assert_eq!(batch.drain().count(), 2);
        let done = || backlog.wait(Duration::ZERO, || true);
        // As when a panic goes through whoever writes.
        drop(waiting);
        assert!(!done() && !offer());
        drop(batch);
        assert!(done() && !offer());
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
        assert!(Queue::check(0).is_err() && Queue::check(usize::MAX).is_err());
        assert!(Queue::check(1).is_ok());
    }
}
