//! Anybody.

use super::Strategy;
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::random::Rng;

/// Anybody, each with the same chance. Blind to load and needing no memory: what other strategies
/// are measured against.
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
/// use llmserve_route::Random;
/// let router = Router::builder()
///     .replicas(["a", "b"].map(|name| Replica::new(name, Closed)))
///     .strategy(Random::seeded(7))
///     .build()?;
/// (0..100).for_each(|_| drop(router.generate(Request::text("Hi"))));
/// assert!(router.stats().replicas.iter().all(|replica| replica.dispatched > 20));
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Debug, Default)]
pub struct Random {
    rng: Rng,
}

impl Random {
    /// Seeded by the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same picks for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self {
            rng: Rng::seeded(seed),
        }
    }
}

impl Strategy for Random {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        candidates.nth(self.rng.below(candidates.len().max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::Bench;
    use llmserve_core::Request;

    #[test]
    fn every_candidate_and_nobody_else() {
        let (strategy, bench) = (Random::seeded(1), Bench::of(5));
        let set = [1, 2, 4].into_iter().collect();
        let mut counts = [0; 5];
        for _ in 0..300 {
            counts[bench.pick_of(&strategy, &Request::text(""), &set).unwrap()] += 1;
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!([1, 2, 4].iter().all(|at| counts[*at] > 70), "{counts:?}");
    }
}
