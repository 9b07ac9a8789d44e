//! Which requests expire next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::contract::clock::Time;

/// Deadlines in order. Entries of requests that ended earlier are skipped when they come up.
#[derive(Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Time, u64)>>,
}

impl Deadlines {
    pub(super) fn insert(&mut self, at: Time, key: u64) {
        self.heap.push(Reverse((at, key)));
    }

    /// The next request whose deadline is not after `now`.
    pub(super) fn pop_expired(&mut self, now: Time) -> Option<u64> {
        match self.heap.peek() {
            Some(Reverse((at, _))) if *at <= now => self.heap.pop().map(|Reverse((_, key))| key),
            _ => None,
        }
    }
}
