//! Sending what is to be stored.

use std::collections::HashMap;
use std::sync::Arc;

use redis::cmd;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::link::too_late;
use crate::key::Key;
use crate::store::queue::{Waiting, Write};

/// Writes that are sent together.
const AT_ONCE: usize = 256;

/// Sends what is queued, until the queue is dropped and empty.
pub(super) async fn send(shared: Arc<Shared>, mut queue: Waiting) {
    while let Some(mut batch) = queue.next(AT_ONCE).await {
        // Of writes to one key the last counts; the others need not be sent, nor overtaken.
        let last: HashMap<Arc<Key>, Write> = batch
            .drain()
            .map(|write| (write.key().clone(), write))
            .collect();
        let mut sending = JoinSet::new();
        for write in last.into_values() {
            sending.spawn(send_one(shared.clone(), write));
        }
        while sending.join_next().await.is_some() {}
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
