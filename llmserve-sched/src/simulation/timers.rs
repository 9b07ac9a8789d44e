//! Moments at which somebody may have to end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use llmserve_core::SequenceId;

/// Deadlines and cancellations, in nanoseconds. An entry of somebody who has ended meanwhile is
/// dropped when it comes up, or when such entries outnumber the others.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(u64, SequenceId)>>,
}

impl Timers {
    /// `alive` tells who has not ended, and `living` how many there are.
    pub(super) fn insert(
        &mut self,
        at: u64,
        id: SequenceId,
        living: usize,
        alive: impl Fn(SequenceId) -> bool,
    ) {
        if self.heap.len() > 2 * living + 1024 {
            self.heap.retain(|Reverse((_, id))| alive(*id));
        }
        self.heap.push(Reverse((at, id)));
    }

    /// The next moment of one who is alive.
    pub(super) fn next(&mut self, alive: impl Fn(SequenceId) -> bool) -> Option<u64> {
        while let Some(&Reverse((at, id))) = self.heap.peek() {
            if alive(id) {
                return Some(at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes one who is alive and whose moment is not after `now`.
    pub(super) fn pop_due(
        &mut self,
        now: u64,
        alive: impl Fn(SequenceId) -> bool,
    ) -> Option<SequenceId> {
        if self.next(alive)? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, id))| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_ones_come_in_order_and_the_dead_never() {
        let mut timers = Timers::default();
        let id = |slot| SequenceId::new(slot, 0);
        for (at, slot) in [(30, 3), (10, 1), (20, 2), (40, 4)] {
            timers.insert(at, id(slot), 4, |_| true);
        }
        let alive = |who: SequenceId| who != id(1);
        assert_eq!(timers.next(alive), Some(20));
        assert_eq!(timers.pop_due(30, alive), Some(id(2)));
        assert_eq!(timers.pop_due(30, alive), Some(id(3)));
        assert_eq!(timers.pop_due(30, alive), None);
    }

    #[test]
    fn the_dead_do_not_pile_up() {
        let mut timers = Timers::default();
        for slot in 0..100_000 {
            let id = SequenceId::new(slot, 0);
            timers.insert(1 << 60, id, 10, |other| other.slot() + 10 > id.slot());
        }
        assert!(timers.heap.len() < 1100, "{}", timers.heap.len());
    }
}
