//! Everyone in turn.

use llmserve_core::Request;

use super::{Strategy, turns::Turns};
use crate::candidate::Candidate;

/// Everyone in turn: the candidate whose last turn is the longest ago.
///
/// Fair to each replica also where requests for different models are mixed and the lists of
/// candidates overlap. Blind to load: right for requests of about equal cost. Its memory of turns
/// is by replica index, so each router needs its own.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::{Candidate, RoundRobin, Strategy};
/// let turns = RoundRobin::new();
/// let candidates = [Candidate::new(0, "a"), Candidate::new(1, "b")];
/// let request = Request::text("Hi");
/// let picks: Vec<_> = (0..4).map(|_| turns.pick(&candidates, &request)).collect();
/// assert_eq!(picks, [Some(0), Some(1), Some(0), Some(1)]);
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    turns: Turns,
}

impl RoundRobin {
    /// Begins with the first replica.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for RoundRobin {
    fn pick(&self, candidates: &[Candidate<'_>], _request: &Request) -> Option<usize> {
        self.turns.give(candidates, |_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_models_starve_nobody() {
        let strategy = RoundRobin::new();
        let all: Vec<_> = (0..4).map(|index| Candidate::new(index, "r")).collect();
        let (small, large) = all.split_at(2);
        let request = Request::text("");
        let mut turns = [0; 4];
        for step in 0..40 {
            let list = if step % 2 == 0 { small } else { large };
            let place = strategy.pick(list, &request).unwrap();
            turns[list[place].index] += 1;
        }
        assert_eq!(turns, [10, 10, 10, 10]);
    }

    #[test]
    fn overlapping_lists_serve_the_longest_waiting() {
        let strategy = RoundRobin::new();
        let request = Request::text("");
        let all: Vec<_> = (0..3).map(|index| Candidate::new(index, "r")).collect();
        assert_eq!(strategy.pick(&all[..2], &request), Some(0));
        assert_eq!(strategy.pick(&all[..2], &request), Some(1));
        // 2 never had a turn, then 0 has waited longer than 1.
        assert_eq!(strategy.pick(&all, &request), Some(2));
        assert_eq!(strategy.pick(&all[..2], &request), Some(0));
        assert_eq!(strategy.pick(&all, &request), Some(1));
        assert_eq!(strategy.pick(&[], &request), None);
    }

    #[test]
    fn exact_under_threads() {
        let strategy = RoundRobin::new();
        let all: Vec<_> = (0..5).map(|index| Candidate::new(index, "r")).collect();
        let counts = parking_lot::Mutex::new([0usize; 5]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let request = Request::text("");
                    for _ in 0..250 {
                        let place = strategy.pick(&all, &request).unwrap();
                        counts.lock()[place] += 1;
                    }
                });
            }
        });
        assert_eq!(counts.into_inner(), [200; 5]);
    }
}
