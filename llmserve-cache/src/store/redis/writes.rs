//! What is to be stored, on its way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use redis::cmd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::link::too_late;
use crate::entry::Entry;
use crate::key::Key;

/// Writes that are sent together.
const AT_ONCE: usize = 256;

pub(super) enum Write {
    Put(Entry),
    Remove(Arc<Key>),
}

impl Write {
    fn key(&self) -> &Arc<Key> {
        match self {
            Write::Put(entry) => &entry.key,
            Write::Remove(key) => key,
        }
    }

    fn size(&self) -> usize {
        match self {
            Write::Put(entry) => entry.size(),
            Write::Remove(key) => key.bytes().len(),
        }
    }
}

/// What is queued or being sent.
#[derive(Default)]
pub(super) struct Backlog {
    writes: Mutex<usize>,
    bytes: AtomicUsize,
    changed: Condvar,
}

impl Backlog {
    /// Something that [`wait`](Self::wait) waits for may be so now.
    pub(super) fn changed(&self) {
        let _writes = self.writes.lock();
        self.changed.notify_all();
    }

    /// Waits until no write is left and `done` holds, at most for `limit`.
    pub(super) fn wait(&self, limit: Duration, done: impl Fn() -> bool) -> bool {
        let until = Instant::now() + limit;
        let mut writes = self.writes.lock();
        while *writes > 0 || !done() {
            if self.changed.wait_until(&mut writes, until).timed_out() {
                return *writes == 0 && done();
            }
        }
        true
    }

    fn left(&self, writes: usize, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        *self.writes.lock() -= writes;
        self.changed();
    }
}

/// The near end, which never waits.
pub(super) struct Queue {
    sender: mpsc::Sender<Write>,
    backlog: Arc<Backlog>,
    most_bytes: usize,
}

impl Queue {
    pub(super) fn new(
        length: usize,
        most_bytes: usize,
        backlog: Arc<Backlog>,
    ) -> (Self, mpsc::Receiver<Write>) {
        let (sender, receiver) = mpsc::channel(length);
        let queue = Self {
            sender,
            backlog,
            most_bytes,
        };
        (queue, receiver)
    }

    /// False: there is no room.
    pub(super) fn offer(&self, write: Write) -> bool {
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

/// Sends what is queued, until the queue is dropped and empty.
pub(super) async fn send(shared: Arc<Shared>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while queue.recv_many(&mut batch, AT_ONCE).await > 0 {
        let (writes, bytes) = (batch.len(), batch.iter().map(Write::size).sum());
        // Of writes to one key the last counts; the others need not be sent, nor overtaken.
        let last: HashMap<Arc<Key>, Write> = batch
            .drain(..)
            .map(|write| (write.key().clone(), write))
            .collect();
        let mut sending = JoinSet::new();
        for write in last.into_values() {
            sending.spawn(send_one(shared.clone(), write));
        }
        while sending.join_next().await.is_some() {}
        shared.backlog.left(writes, bytes);
    }
}

async fn send_one(shared: Arc<Shared>, write: Write) {
    let link = shared.link(write.key());
    let Some(mut live) = link.live() else {
        return shared.count_failure();
    };
    let place = shared.place(write.key());
    let command = match &write {
        Write::Put(entry) => {
            let mut command = cmd("SET");
            command.arg(place).arg(entry.to_bytes());
            if let Some(ttl) = entry.ttl {
                let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                // The entry itself says when it ends, should that be later.
                command.arg("PX").arg(ttl.clamp(1, LONGEST_TTL_MS));
            }
            command
        }
        Write::Remove(_) => {
            let mut command = cmd("UNLINK");
            command.arg(place);
            command
        }
    };
    let asked = timeout(shared.patience, live.connection.ask(&command)).await;
    if let Err(error) = asked.unwrap_or_else(|_| Err(too_late())) {
        shared.failed(link, &live, &error);
    }
}

/// A hundred years, in milliseconds: Redis refuses times that overflow with the date.
const LONGEST_TTL_MS: u64 = 100 * 365 * 24 * 3_600 * 1_000;
