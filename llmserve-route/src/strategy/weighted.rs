//! Everyone by its share.

use parking_lot::Mutex;

use super::Strategy;
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::replica::ReplicaInfo;

/// Everyone in turn, as often as its [`weight`](crate::ReplicaInfo::weight) says, spread evenly: of
/// weights 3 and 1 every fourth request goes to the second, and never do three go to it in a row.
///
/// The smooth weighted round robin of nginx: each candidate gains its weight, the one with the most
/// is picked and pays the sum. Blind to load. A candidate of weight 0 is picked only where all are
/// of weight 0; they are then equal.
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
/// use llmserve_route::Weighted;
/// let router = Router::builder()
///     .replica(Replica::new("stable", Closed).weight(95))
///     .replica(Replica::new("canary", Closed).weight(5))
///     .strategy(Weighted::new())
///     .build()?;
/// (0..100).for_each(|_| drop(router.generate(Request::text("Hi"))));
/// let dispatched: Vec<_> = router.stats().replicas.iter().map(|r| r.dispatched).collect();
/// assert_eq!(dispatched, [95, 5]);
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Debug, Default)]
pub struct Weighted {
    /// By slot index.
    shares: Mutex<Vec<Share>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Share {
    weight: i64,
    /// What it has gained and not paid.
    gained: i64,
}

impl Weighted {
    /// With nothing gained.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for Weighted {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let mut shares = self.shares.lock();
        let mut total = 0;
        candidates.each(|index, _| total += shares.get(index).map_or(0, |share| share.weight));
        let even = total == 0;
        let (mut most, mut first) = (i64::MIN, None);
        let shares = &mut shares[..];
        candidates.each(|index, _| {
            let Some(share) = shares.get_mut(index) else {
                return;
            };
            let weight = if even { 1 } else { share.weight };
            share.gained += weight;
            let gained = if weight > 0 { share.gained } else { i64::MIN };
            let more = gained > most;
            most = if more { gained } else { most };
            first = if more { Some(index) } else { first };
        });
        let first = first?;
        shares[first].gained -= if even { candidates.len() as i64 } else { total };
        Some(candidates.fleet().slot(first))
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let mut shares = self.shares.lock();
        if slot.index() >= shares.len() {
            shares.resize(slot.index() + 1, Share::default());
        }
        shares[slot.index()] = Share {
            weight: i64::from(info.weight),
            gained: 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Replica;
    use crate::strategy::testing::Bench;
    use llmserve_core::Request;

    fn weighing(weights: &[u32]) -> Bench {
        let changes = weights
            .iter()
            .map(|weight| move |r: Replica| r.weight(*weight));
        Bench::with(changes)
    }

    #[test]
    fn shares_are_exact_and_spread() {
        let (strategy, bench) = (Weighted::new(), weighing(&[5, 1, 1]));
        let bench = bench.join(&strategy);
        let picks: Vec<_> = (0..7).filter_map(|_| bench.pick(&strategy)).collect();
        // nginx's own example.
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn weight_nought_is_a_last_resort() {
        let (strategy, bench) = (Weighted::new(), weighing(&[0, 2, 0]));
        let bench = bench.join(&strategy);
        assert!((0..9).all(|_| bench.pick(&strategy) == Some(1)));
        let noughts = [0, 2].into_iter().collect();
        let ask = Request::text("");
        let picks: Vec<_> = (0..4)
            .filter_map(|_| bench.pick_of(&strategy, &ask, &noughts))
            .collect();
        assert_eq!(picks, [0, 2, 0, 2]);
    }
}
