//! A place for a connection, and who keeps one in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use redis::{ErrorKind, RedisError, RedisResult};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::client::Connection;

/// Between two tries to connect, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One of the pool.
#[derive(Default)]
pub(super) struct Link {
    live: RwLock<Option<Live>>,
    made: AtomicU64,
    withdrawn: Notify,
}

/// A connection, and which one in this place it is.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: Connection,
    number: u64,
}

impl Link {
    pub(super) fn live(&self) -> Option<Live> {
        self.live.read().clone()
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.read().is_some()
    }

    fn publish(&self, connection: Connection) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        *self.live.write() = Some(Live { connection, number });
    }

    /// The connection is no good, and another must be made. It may already have been.
    pub(super) fn withdraw(&self, live: &Live) {
        let mut place = self.live.write();
        if place.as_ref().is_some_and(|at| at.number == live.number) {
            *place = None;
            self.withdrawn.notify_one();
        }
    }

    pub(super) fn withdraw_any(&self) {
        if let Some(live) = self.live() {
            self.withdraw(&live);
        }
    }
}

/// Keeps the place at `index` filled, until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>, index: usize) {
    let link = &shared.links[index];
    let mut pause = FIRST_PAUSE;
    loop {
        match connect(&shared).await {
            Ok(connection) => {
                link.publish(connection);
                pause = FIRST_PAUSE;
                link.withdrawn.notified().await;
            }
            Err(error) => {
                shared.note(&error);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// A connection through which the epochs are known: what others made old while there was none must
/// not be found through it.
async fn connect(shared: &Shared) -> RedisResult<Connection> {
    let both = async {
        let mut connection = shared.source.connect(shared.patience).await?;
        shared.sync.run(&mut connection).await?;
        Ok(connection)
    };
    timeout(shared.patience.saturating_mul(2), both)
        .await
        .unwrap_or_else(|_| Err(too_late()))
}

pub(super) fn too_late() -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer within the time limit"))
}
