//! The one with the least to do.

use llmserve_core::Request;

use super::{Strategy, turns::Turns};
use crate::candidate::Candidate;

/// The candidate with the fewest outstanding requests; among equals, everyone in turn.
///
/// Follows load that differs from request to request, which [`RoundRobin`](crate::RoundRobin)
/// does not see. Taking turns among equals matters: idle replicas are all equal, and the lowest
/// index would get every request of a quiet hour, and a burst's first requests from every thread
/// at once. A replica that fails fast looks idle, so it is asked often; its requests then fail
/// over. Its memory of turns is by replica index, so each router needs its own.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::{Candidate, LeastLoaded, Strategy};
/// let least = LeastLoaded::new();
/// let candidates = [
///     Candidate::new(0, "a").outstanding(2),
///     Candidate::new(1, "b").outstanding(1),
///     Candidate::new(2, "c").outstanding(1),
/// ];
/// let request = Request::text("Hi");
/// assert_eq!(least.pick(&candidates, &request), Some(1));
/// assert_eq!(least.pick(&candidates, &request), Some(2));
/// assert_eq!(least.pick(&candidates, &request), Some(1));
/// ```
#[derive(Debug, Default)]
pub struct LeastLoaded {
    turns: Turns,
}

impl LeastLoaded {
    /// Begins with the first of equals.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for LeastLoaded {
    fn pick(&self, candidates: &[Candidate<'_>], _request: &Request) -> Option<usize> {
        let least = candidates.iter().map(|c| c.outstanding).min()?;
        self.turns.give(candidates, |c| c.outstanding == least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_comes_before_turns() {
        let strategy = LeastLoaded::new();
        let request = Request::text("");
        let one_idle = [
            Candidate::new(0, "a").outstanding(1),
            Candidate::new(1, "b"),
        ];
        for _ in 0..3 {
            assert_eq!(strategy.pick(&one_idle, &request), Some(1));
        }
        assert_eq!(strategy.pick(&[], &request), None);
    }

    #[test]
    fn equal_snapshots_seen_by_many_threads_are_spread() {
        let strategy = LeastLoaded::new();
        let idle: Vec<_> = (0..4).map(|index| Candidate::new(index, "r")).collect();
        let counts = parking_lot::Mutex::new([0usize; 4]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let place = strategy.pick(&idle, &Request::text("")).unwrap();
                    counts.lock()[place] += 1;
                });
            }
        });
        assert_eq!(counts.into_inner(), [1; 4]);
    }
}
