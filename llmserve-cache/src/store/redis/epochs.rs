//! The epochs that all hosts share: one hash in Redis, from a scope's number to its epoch.
//!
//! Beside the scopes the hash has a field [`REVISION`], moved on by whatever changes it, so that
//! seeing whether anything is new takes two fields and not all.
//!
//! A hash that was lost, evicted or flushed has no epoch of everything. Whoever sees that first
//! draws one, so that whatever the lost epochs had made old stays old, and all the rest with it.
//! So does whoever sees that the hash [went back](Seen::went_back), as it does when a server fails
//! that had not passed on its last commands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{RedisResult, cmd, pipe};
use tokio::sync::Notify;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;

use super::Shared;
use super::client::Connection;
use super::link::too_late;
use super::seen::Seen;
use crate::epoch::{ALL, Epochs, MOST_SCOPES};
use crate::store::queue::Backlog;

/// No scope's number: they are all digits.
const REVISION: &str = "rev";

/// A revision beyond this cannot have been counted, and soon could not be counted on.
const MOST_REVISION: u64 = 1 << 62;

/// Scopes that go out in one command.
const PUSHED_AT_ONCE: usize = 1_000;

/// Times the hash is read again because it had to be changed, before that waits for the next turn.
const READINGS: usize = 4;

/// Refreshes that may fail before what is found is no longer believed.
const MISSED_REFRESHES: u32 = 10;

/// What was invalidated here and is not known to have arrived.
#[derive(Default)]
struct Pending {
    scopes: Mutex<HashMap<u64, u64>>,
    some: Notify,
}

pub(super) struct Sync {
    key: String,
    epochs: Arc<Epochs>,
    pending: Arc<Pending>,
    backlog: Arc<Backlog>,
    seen: tokio::sync::Mutex<Seen>,
    began: Instant,
    /// Milliseconds after `began` of the last time that the hash was read, and one; 0 is never.
    read: AtomicU64,
    believed: Duration,
}

impl Sync {
    pub(super) fn new(
        prefix: &str,
        refresh: Duration,
        epochs: Arc<Epochs>,
        backlog: Arc<Backlog>,
    ) -> Self {
        let pending = Arc::<Pending>::default();
        let (noted, here) = (pending.clone(), Arc::downgrade(&epochs));
        epochs.listen(move |scope, epoch| noted.add(&here, scope, epoch));
        Self {
            key: format!("{prefix}epochs"),
            epochs,
            pending,
            backlog,
            seen: tokio::sync::Mutex::default(),
            began: Instant::now(),
            read: AtomicU64::new(0),
            believed: refresh.saturating_mul(MISSED_REFRESHES),
        }
    }

    /// Whether the epochs here are those of the hash not too long ago.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let read = self.read.load(Ordering::Relaxed);
        let since = now.saturating_duration_since(self.began);
        read > 0 && since <= Duration::from_millis(read).saturating_add(self.believed)
    }

    /// Whether something invalidated here is not known to have arrived.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.scopes.lock().is_empty()
    }

    /// Sends what was invalidated here, then takes over what the hash says.
    pub(super) async fn run(&self, connection: &mut Connection) -> RedisResult<()> {
        let mut seen = self.seen.lock().await;
        let pushed = self.push(connection, &mut seen).await;
        for _ in 0..READINGS {
            if self.pull(connection, &mut seen).await? {
                if pushed.is_err() {
                    // It may have been refused for what reading has mended.
                    self.push(connection, &mut seen).await?;
                }
                let since = self.began.elapsed().as_millis() as u64;
                self.read.store(since + 1, Ordering::Relaxed);
                return Ok(());
            }
        }
        pushed
    }

    async fn push(&self, connection: &mut Connection, seen: &mut Seen) -> RedisResult<()> {
        loop {
            let some: Vec<(u64, u64)> = {
                let pending = self.pending.scopes.lock();
                let all = pending.iter().map(|(&scope, &epoch)| (scope, epoch));
                all.take(PUSHED_AT_ONCE).collect()
            };
            if some.is_empty() {
                return Ok(());
            }
            self.change(connection, seen, &some).await?;
            let mut pending = self.pending.scopes.lock();
            for (scope, epoch) in some {
                if pending.get(&scope) == Some(&epoch) {
                    pending.remove(&scope);
                }
            }
            drop(pending);
            self.backlog.changed();
        }
    }

    /// False: the hash had to be changed, and must be read again.
    async fn pull(&self, connection: &mut Connection, seen: &mut Seen) -> RedisResult<bool> {
        let asked = cmd("HMGET")
            .arg(&self.key)
            .arg(ALL)
            .arg(REVISION)
            .query_async::<(Option<Vec<u8>>, Option<Vec<u8>>)>(connection)
            .await;
        let (all, revision) = match asked {
            Err(error) if error.code() == Some("WRONGTYPE") => {
                // Somebody else's, in a place that is not theirs.
                let mut delete = cmd("DEL");
                delete.arg(&self.key).query_async::<()>(connection).await?;
                return Ok(false);
            }
            asked => asked?,
        };
        let revision = revision.and_then(|text| number(&text));
        if seen.is_same(revision, all.map(|text| epoch(&text))) {
            return Ok(true);
        }
        let fields: Vec<(Vec<u8>, Vec<u8>)> = cmd("HGETALL")
            .arg(&self.key)
            .query_async(connection)
            .await?;
        let mut revision = None;
        let mut hash = HashMap::with_capacity(fields.len());
        for (field, value) in fields {
            if field == REVISION.as_bytes() {
                revision = Some(number(&value).filter(|number| *number <= MOST_REVISION));
            } else if let Some(scope) = number(&field) {
                hash.insert(scope, epoch(&value));
            }
        }
        if hash.len() > MOST_SCOPES || revision == Some(None) {
            // Too large to be read every time, or with a revision that nobody can count on.
            let fresh = [("0", self.epochs.draw()), (REVISION, self.first_revision())];
            pipe()
                .atomic()
                .del(&self.key)
                .ignore()
                .hset_multiple(&self.key, &fresh)
                .ignore()
                .query_async::<()>(connection)
                .await?;
            return Ok(false);
        }
        let (true, Some(Some(revision))) = (hash.contains_key(&ALL), revision) else {
            // Lost, or the first of its life. Only the first who says so is heard.
            pipe()
                .atomic()
                .hset_nx(&self.key, ALL, self.epochs.draw())
                .ignore()
                .hset_nx(&self.key, REVISION, self.first_revision())
                .ignore()
                .hincr(&self.key, REVISION, self.step())
                .ignore()
                .query_async::<()>(connection)
                .await?;
            return Ok(false);
        };
        let told = |scope| self.pending.scopes.lock().contains_key(&scope);
        if seen.went_back(revision, &hash, told) {
            let fresh = [(ALL, self.epochs.draw())];
            // Not before it is all made old: until then whoever looks must find that it went back.
            let revision = self.change(connection, seen, &fresh).await?;
            seen.start_over(revision);
            return Ok(false);
        }
        seen.read(revision, &hash);
        let pending = self.pending.scopes.lock();
        hash.extend(pending.iter().map(|(&scope, &epoch)| (scope, epoch)));
        self.epochs.replace(hash);
        Ok(true)
    }

    async fn change(
        &self,
        connection: &mut Connection,
        seen: &mut Seen,
        fields: &[(u64, u64)],
    ) -> RedisResult<u64> {
        for (scope, epoch) in fields {
            seen.tell(*scope, *epoch);
        }
        let mut both = pipe();
        let (revision,): (u64,) = both
            .atomic()
            .hset_multiple(&self.key, fields)
            .ignore()
            .hincr(&self.key, REVISION, self.step())
            .query_async(connection)
            .await?;
        seen.arrived(revision);
        Ok(revision)
    }

    /// By how much a change moves the revision: by as much as no other does, so that a hash which
    /// lost one and got another is not taken for the one that was read.
    fn step(&self) -> u64 {
        1 + (self.epochs.draw() >> 40)
    }

    /// Far from where it would overflow, and from that of a hash before this one.
    fn first_revision(&self) -> u64 {
        self.epochs.draw() >> 4
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whatever stands there is the same for everybody who reads it.
fn epoch(text: &[u8]) -> u64 {
    number(text).unwrap_or_else(|| xxh3_64(text)).max(1)
}

impl Pending {
    fn add(&self, epochs: &Weak<Epochs>, scope: u64, epoch: u64) {
        let mut scopes = self.scopes.lock();
        let (scope, epoch) = match scopes.len() < MOST_SCOPES {
            true => (scope, epoch),
            false => {
                scopes.clear();
                (ALL, epoch)
            }
        };
        scopes.insert(scope, epoch);
        // Once more: the hash may just have been taken over, in which it is not yet.
        if let Some(epochs) = epochs.upgrade() {
            epochs.set(scope, epoch);
        }
        drop(scopes);
        self.some.notify_one();
    }
}

/// Keeps the epochs here and in Redis together, until it is dropped.
pub(super) async fn refresh(shared: Arc<Shared>, every: Duration) {
    loop {
        // At the latest then, and at once when something is invalidated.
        let _ = timeout(every, shared.sync.pending.some.notified()).await;
        for link in &shared.links {
            let Some(mut live) = link.live() else {
                continue;
            };
            let run = shared.sync.run(&mut live.connection);
            let ran = timeout(shared.patience, run).await;
            match ran.unwrap_or_else(|_| Err(too_late())) {
                Ok(()) => break,
                Err(error) => shared.failed(link, &live, &error),
            }
        }
    }
}
