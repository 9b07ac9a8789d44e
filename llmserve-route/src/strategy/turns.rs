//! Whose turn it is.
//!
//! A counter modulo the number of candidates is no fair turn: with two models requested in
//! alternation, each served by two replicas, it gives one replica of each pair everything and the
//! other nothing. So each replica's last turn is remembered, and the one that has waited longest
//! goes next, whoever else is a candidate.

use parking_lot::Mutex;

use crate::fleet::Slot;

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

impl Turns {
    /// The one of `slots` whose last turn is the longest ago, those without one first, then the
    /// lowest index. It has its turn by this very call.
    pub(crate) fn give(&self, slots: impl Iterator<Item = Slot>) -> Option<Slot> {
        let mut state = self.0.lock();
        let State { given, last } = &mut *state;
        let of = |slot: &Slot| last.get(slot.index()).copied().unwrap_or(0);
        let next = slots.min_by_key(of)?;
        *given += 1;
        if next.index() >= last.len() {
            last.resize(next.index() + 1, 0);
        }
        last[next.index()] = *given;
        Some(next)
    }

    /// Forgets the turns of a replica that is gone: the next in its slot had none.
    pub(crate) fn forget(&self, slot: Slot) {
        if let Some(last) = self.0.lock().last.get_mut(slot.index()) {
            *last = 0;
        }
    }
}
