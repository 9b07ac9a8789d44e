//! Everyone in turn.

use super::{Strategy, turns::Turns};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;

/// Everyone in turn: the candidate whose last turn is the longest ago.
///
/// Fair to each replica also where requests for different models are mixed and the sets of
/// candidates overlap. Blind to load: right for requests of about equal cost.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # use llmserve_route::{Replica, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use llmserve_route::RoundRobin;
/// let router = Router::builder()
///     .replicas(["a", "b", "c"].map(|name| Replica::new(name, Closed)))
///     .strategy(RoundRobin::new())
///     .max_attempts(1)
///     .build()?;
/// (0..6).for_each(|_| drop(router.generate(Request::text("Hi"))));
/// assert!(router.stats().replicas.iter().all(|replica| replica.dispatched == 2));
/// # Ok::<(), llmserve_route::BuildError>(())
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
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        self.turns.least(candidates, |_, _| 0u64)
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::ReplicaSet;
    use crate::strategy::testing::Bench;
    use llmserve_core::Request;

    fn pick(strategy: &RoundRobin, bench: &Bench, set: impl IntoIterator<Item = usize>) -> usize {
        let set: ReplicaSet = set.into_iter().collect();
        let picked = bench.pick_of(strategy, &Request::text(""), &set);
        picked.expect("somebody")
    }

    #[test]
    fn mixed_models_starve_nobody() {
        let (strategy, bench) = (RoundRobin::new(), Bench::of(4));
        let mut turns = [0; 4];
        for step in 0..40 {
            let set = if step % 2 == 0 { [0, 1] } else { [2, 3] };
            turns[pick(&strategy, &bench, set)] += 1;
        }
        assert_eq!(turns, [10, 10, 10, 10]);
    }

    #[test]
    fn overlapping_sets_serve_the_longest_waiting() {
        let (strategy, bench) = (RoundRobin::new(), Bench::of(3));
        assert_eq!(pick(&strategy, &bench, 0..2), 0);
        assert_eq!(pick(&strategy, &bench, 0..2), 1);
        // 2 never had a turn, then 0 has waited longer than 1.
        assert_eq!(pick(&strategy, &bench, 0..3), 2);
        assert_eq!(pick(&strategy, &bench, 0..2), 0);
        assert_eq!(pick(&strategy, &bench, 0..3), 1);
        // Another in the slot of one that left is new.
        strategy.left(Slot::new(1, 0));
        assert_eq!(pick(&strategy, &bench, 0..3), 1);
    }
}
