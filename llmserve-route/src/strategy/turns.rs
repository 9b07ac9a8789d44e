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
    /// [`give`](Self::give). A cost that is no number is the highest.
    pub(crate) fn least(
        &self,
        candidates: &Candidates<'_>,
        mut cost: impl FnMut(usize, &Load) -> f64,
    ) -> Option<Slot> {
        let mut state = self.0.lock();
        let places = candidates.fleet().places();
        if state.last.len() < places {
            state.last.resize(places, 0);
        }
        let last = &state.last[..];
        let (mut least, mut lowest, mut first) = (usize::MAX, f64::INFINITY, u64::MAX);
        candidates.each(|index, load| {
            let cost = cost(index, load);
            let cost = if cost.is_nan() { f64::INFINITY } else { cost };
            let turn = last[index];
            if cost < lowest || (cost == lowest && turn < first) {
                (least, lowest, first) = (index, cost, turn);
            }
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
