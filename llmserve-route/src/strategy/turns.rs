//! Whose turn it is.
//!
//! A counter modulo the number of candidates is no fair turn: with two models requested in
//! alternation, each served by two replicas, it gives one replica of each pair everything and the
//! other nothing. So each replica's last turn is remembered, and the one that has waited longest
//! goes next, whoever else is a candidate.

use parking_lot::Mutex;

use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::load::Load;

/// When each replica last had its turn.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Turns given so far.
    given: u64,
    /// By slot index, the number of its last turn; 0 for those that had none.
    last: Vec<u64>,
}

impl State {
    fn took(&mut self, slot: Slot) {
        self.given += 1;
        if slot.index() >= self.last.len() {
            self.last.resize(slot.index() + 1, 0);
        }
        self.last[slot.index()] = self.given;
    }
}

/// What a candidate costs.
pub(crate) trait Cost {
    /// A number that is ordered as costs are.
    fn order(self) -> u64;
}

impl Cost for u64 {
    fn order(self) -> u64 {
        self
    }
}

/// What is no number is the highest.
impl Cost for f64 {
    fn order(self) -> u64 {
        // Nought has two signs.
        let bits = (self + 0.0).to_bits();
        let order = match bits >> 63 {
            0 => bits | 1 << 63,
            _ => !bits,
        };
        if self.is_nan() { u64::MAX } else { order }
    }
}

impl Turns {
    /// The one of `slots` whose last turn is the longest ago, those without one first, then the
    /// lowest index. It has its turn by this very call.
    pub(crate) fn give(&self, slots: impl Iterator<Item = Slot>) -> Option<Slot> {
        let mut state = self.0.lock();
        let turn = |slot: &Slot| state.last.get(slot.index()).copied().unwrap_or(0);
        let next = slots.min_by_key(turn)?;
        state.took(next);
        Some(next)
    }

    /// The candidate that `cost` finds least, of its slot's index and its load; among equals as in
    /// [`give`](Self::give).
    pub(crate) fn least<C: Cost>(
        &self,
        candidates: &Candidates<'_>,
        mut cost: impl FnMut(usize, &Load) -> C,
    ) -> Option<Slot> {
        let mut state = self.0.lock();
        let places = candidates.fleet().places();
        if state.last.len() < places {
            state.last.resize(places, 0);
        }
        let last = &state.last[..];
        let (mut least, mut lowest) = (usize::MAX, (u64::MAX, u64::MAX));
        candidates.each(|index, load| {
            let cost = (cost(index, load).order(), last[index]);
            // No branch that depends on loads, which nothing predicts.
            let lower = (cost < lowest) | (least == usize::MAX);
            least = if lower { index } else { least };
            lowest = if lower { cost } else { lowest };
        });
        if least == usize::MAX {
            return None;
        }
        let slot = candidates.fleet().slot(least);
        state.took(slot);
        Some(slot)
    }

    /// Forgets the turns of a replica that is gone: the next in its slot had none.
    pub(crate) fn forget(&self, slot: Slot) {
        if let Some(last) = self.0.lock().last.get_mut(slot.index()) {
            *last = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::Bench;

    #[test]
    fn costs_of_all_kinds_are_in_order() {
        let costs = [
            f64::NEG_INFINITY,
            -1e300,
            -1.0,
            -f64::MIN_POSITIVE,
            0.0,
            f64::MIN_POSITIVE,
            1.0,
            1e300,
            f64::INFINITY,
            f64::NAN,
        ];
        let rising = |pair: &[f64]| pair[0].order() < pair[1].order();
        assert!(costs.windows(2).all(rising));
        assert_eq!((-0.0).order(), 0.0.order());
        assert_eq!((-f64::NAN).order(), u64::MAX);
    }

    #[test]
    fn somebody_is_found_among_the_incomparable() {
        let bench = Bench::of(3);
        let all = (0..3).collect();
        let candidates = Candidates::new(&bench.fleet, &bench.loads, &all);
        let turns = Turns::default();
        let picks = (0..4).filter_map(|_| turns.least(&candidates, |_, _| f64::NAN));
        let picks: Vec<_> = picks.map(Slot::index).collect();
        assert_eq!(picks, [0, 1, 2, 0]);
    }
}
