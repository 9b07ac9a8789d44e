//! Least recently used, with a time to live, in bytes. No lock and no clock of its own.
//!
//! ```text
//!  entries    key ─► answer, place in use, place in time
//!  by_use     tick of the last use ─► key        the first is given up first
//!  by_expiry  (time it ends, tick) ─► key        all up to now are swept before anything else
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::Time;

use crate::answer::Answer;
use crate::key::Key;
use crate::store::StoreStats;

/// Bytes charged for an entry beyond key and answer: map slots, tree nodes, reference counts.
pub(super) const ENTRY_OVERHEAD: usize = 256;

/// What was let go, to be freed by the caller once the lock is.
pub(super) type LetGo = Vec<(Arc<Key>, Arc<Answer>)>;

pub(super) struct Shelf {
    max_bytes: usize,
    ttl: Option<Duration>,
    entries: HashMap<Arc<Key>, Entry>,
    by_use: BTreeMap<u64, Arc<Key>>,
    by_expiry: BTreeMap<(Time, u64), Arc<Key>>,
    /// Counts uses; never the same twice.
    tick: u64,
    bytes: usize,
    evictions: u64,
    expirations: u64,
}

struct Entry {
    answer: Arc<Answer>,
    bytes: usize,
    used: u64,
    expiry: Option<(Time, u64)>,
}

impl Shelf {
    pub(super) fn new(max_bytes: usize, ttl: Option<Duration>) -> Self {
        Self {
            max_bytes,
            ttl,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            by_expiry: BTreeMap::new(),
            tick: 0,
            bytes: 0,
            evictions: 0,
            expirations: 0,
        }
    }

    pub(super) fn get(&mut self, key: &Key, now: Time, let_go: &mut LetGo) -> Option<Arc<Answer>> {
        self.sweep(now, let_go);
        let entry = self.entries.get_mut(key)?;
        self.tick += 1;
        if let Some(key) = self.by_use.remove(&entry.used) {
            self.by_use.insert(self.tick, key);
        }
        entry.used = self.tick;
        Some(entry.answer.clone())
    }

    /// An entry that can never fit changes nothing.
    pub(super) fn put(
        &mut self,
        key: Arc<Key>,
        answer: Arc<Answer>,
        now: Time,
        let_go: &mut LetGo,
    ) {
        let bytes = key
            .bytes()
            .len()
            .saturating_add(answer.size())
            .saturating_add(ENTRY_OVERHEAD);
        if bytes > self.max_bytes {
            return;
        }
        self.sweep(now, let_go);
        self.remove(&key, let_go);
        while self.bytes > self.max_bytes - bytes {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, key)| key.clone()) else {
                break;
            };
            self.remove(&oldest, let_go);
            self.evictions += 1;
        }
        self.tick += 1;
        let expiry = self.ttl.map(|ttl| (now.saturating_add(ttl), self.tick));
        self.by_use.insert(self.tick, key.clone());
        if let Some(expiry) = expiry {
            self.by_expiry.insert(expiry, key.clone());
        }
        self.bytes += bytes;
        self.entries.insert(
            key,
            Entry {
                answer,
                bytes,
                used: self.tick,
                expiry,
            },
        );
    }

    pub(super) fn stats(&self) -> StoreStats {
        StoreStats {
            entries: self.entries.len(),
            bytes: self.bytes,
            evictions: self.evictions,
            expirations: self.expirations,
        }
    }

    fn sweep(&mut self, now: Time, let_go: &mut LetGo) {
        while let Some((&(ends, _), key)) = self.by_expiry.first_key_value()
            && ends <= now
        {
            let key = key.clone();
            self.remove(&key, let_go);
            self.expirations += 1;
        }
    }

    fn remove(&mut self, key: &Key, let_go: &mut LetGo) {
        if let Some((key, entry)) = self.entries.remove_entry(key) {
            self.by_use.remove(&entry.used);
            if let Some(expiry) = entry.expiry {
                self.by_expiry.remove(&expiry);
            }
            self.bytes -= entry.bytes;
            let_go.push((key, entry.answer));
        }
    }
}

#[cfg(test)]
mod tests;
