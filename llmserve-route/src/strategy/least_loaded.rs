//! The one with the least to do.

use super::{Strategy, turns::Turns};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;

/// The candidate with the fewest outstanding requests; among equals, everyone in turn.
///
/// Follows load that differs from request to request, which [`RoundRobin`](crate::RoundRobin)
/// does not see. Taking turns among equals matters: idle replicas are all equal, and the lowest
/// index would get every request of a quiet hour. A replica that fails fast looks idle, so it is
/// asked often; its requests then fail over.
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
/// use llmserve_route::LeastLoaded;
/// let router = Router::builder()
///     .replicas(["a", "b", "c"].map(|name| Replica::new(name, Closed)))
///     .strategy(LeastLoaded::new())
///     .build()?;
/// let _streams: Vec<_> = (0..6).map(|_| router.generate(Request::text("Hi"))).collect();
/// assert!(router.stats().replicas.iter().all(|replica| replica.outstanding == 2));
/// # Ok::<(), llmserve_route::BuildError>(())
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
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        self.turns
            .least(candidates, |_, load| u64::from(load.outstanding))
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::Bench;

    #[test]
    fn load_comes_before_turns() {
        let strategy = LeastLoaded::new();
        let one_idle = Bench::of(2).outstanding(&[1, 0]);
        for _ in 0..3 {
            assert_eq!(one_idle.pick(&strategy), Some(1));
        }
    }

    #[test]
    fn equals_take_turns() {
        let strategy = LeastLoaded::new();
        let bench = Bench::of(3).outstanding(&[2, 1, 1]);
        let picks: Vec<_> = (0..4).filter_map(|_| bench.pick(&strategy)).collect();
        assert_eq!(picks, [1, 2, 1, 2]);
    }
}
