//! Whose turn it is.
//!
//! A counter modulo the number of candidates is no fair turn: with two models requested in
//! alternation, each served by two replicas, it gives one replica of each pair everything and the
//! other nothing. So each replica's last turn is remembered, and the one that has waited longest
//! goes next, whoever else is in the list.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::candidate::Candidate;

/// When each replica last had its turn.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Turns given so far.
    given: u64,
    /// By replica index, the number of its last turn; those that had none are missing.
    last: HashMap<usize, u64>,
}

impl Turns {
    /// The place of the candidate among those that `may` take it whose last turn is the longest
    /// ago, those without one first, then the lowest index. It has its turn by this very call, so
    /// threads that ask at once get different answers.
    pub(super) fn give(
        &self,
        candidates: &[Candidate<'_>],
        may: impl Fn(&Candidate<'_>) -> bool,
    ) -> Option<usize> {
        let mut state = self.0.lock();
        let (place, next) = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| may(candidate))
            .min_by_key(|(_, candidate)| state.last.get(&candidate.index))?;
        state.given += 1;
        let turn = state.given;
        state.last.insert(next.index, turn);
        Some(place)
    }
}
