//! Who waits, in order.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use crate::policy::Rank;

/// A place in the queue. By rank; within a rank, those who ran before and were preempted come
/// first, then the order of submission decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) rank: Rank,
    pub(super) newcomer: bool,
    pub(super) order: u64,
    pub(super) slot: usize,
}

/// The waiting sequences. Everything is O(log n).
#[derive(Debug, Default)]
pub(super) struct Queue {
    places: BTreeSet<Place>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn insert(&mut self, place: Place) {
        self.places.insert(place);
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.places.remove(place);
    }

    /// The first place behind `place`, the very first for none.
    pub(super) fn after(&self, place: Option<&Place>) -> Option<Place> {
        match place {
            None => self.places.first().copied(),
            Some(place) => self
                .places
                .range((Excluded(place), Unbounded))
                .next()
                .copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rank: i64, newcomer: bool, order: u64) -> Place {
        Place {
            rank: Rank::new(rank),
            newcomer,
            order,
            slot: order as usize,
        }
    }

    #[test]
    fn preempted_ones_come_first_within_their_rank_only() {
        let mut queue = Queue::default();
        let expected = [
            place(0, true, 9),
            place(1, false, 7),
            place(1, false, 8),
            place(1, true, 2),
            place(2, false, 1),
        ];
        for at in [3, 0, 4, 2, 1] {
            queue.insert(expected[at]);
        }
        let mut last = None;
        for place in expected {
            assert_eq!(queue.after(last.as_ref()), Some(place));
            last = Some(place);
        }
        assert_eq!(queue.after(last.as_ref()), None);
        queue.remove(&expected[0]);
        assert_eq!(queue.after(None), Some(expected[1]));
        assert_eq!(queue.len(), 4);
    }
}
