//! Which requests expire next.

use std::collections::BTreeSet;

use crate::contract::clock::Time;

/// Deadlines in order.
#[derive(Default)]
pub(super) struct Deadlines {
    set: BTreeSet<(Time, u64)>,
}

impl Deadlines {
    pub(super) fn insert(&mut self, at: Time, key: u64) {
        self.set.insert((at, key));
    }

    pub(super) fn remove(&mut self, at: Time, key: u64) {
        self.set.remove(&(at, key));
    }

    /// Takes the next request whose deadline is not after `now`.
    pub(super) fn pop_expired(&mut self, now: Time) -> Option<u64> {
        let (at, key) = *self.set.first()?;
        if at > now {
            return None;
        }
        self.set.pop_first();
        Some(key)
    }
}
