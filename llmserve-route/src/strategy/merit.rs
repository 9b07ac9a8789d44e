//! By what replicas cost and how good they are.

use super::{Strategy, turns::Turns};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::replica::ReplicaInfo;

/// The cheapest candidate, by [`cost`](ReplicaInfo::cost); among equals the one with the fewest
/// outstanding requests.
///
/// One without a cost counts as dearer than any with one. The cheapest fill up to their
/// [`capacity`](ReplicaInfo::capacity) before anybody else gets something, so give them one.
#[derive(Debug, Default)]
pub struct Cheapest {
    turns: Turns,
}

impl Cheapest {
    /// Begins with the first of equals.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The candidate of the best [`quality`](ReplicaInfo::quality); among equals the one with the
/// fewest outstanding requests.
///
/// One without a quality counts as worse than any with one. As with [`Cheapest`], give the best a
/// [`capacity`](ReplicaInfo::capacity).
#[derive(Debug, Default)]
pub struct BestQuality {
    turns: Turns,
}

impl BestQuality {
    /// Begins with the first of equals.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Of those with the least `merit`, the least loaded.
fn least(
    turns: &Turns,
    candidates: &Candidates<'_>,
    merit: impl Fn(&ReplicaInfo) -> f64,
) -> Option<Slot> {
    let merit = |slot| candidates.info(slot).map_or(f64::INFINITY, &merit);
    let least = candidates.iter().map(merit).min_by(f64::total_cmp)?;
    turns.least(candidates, |slot| {
        if merit(slot) == least {
            candidates.outstanding(slot) as f64
        } else {
            f64::INFINITY
        }
    })
}

impl Strategy for Cheapest {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        least(&self.turns, candidates, |info| {
            info.cost.unwrap_or(f64::INFINITY)
        })
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
    }
}

impl Strategy for BestQuality {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let merit = |info: &ReplicaInfo| info.quality.map_or(f64::INFINITY, |q| -f64::from(q));
        least(&self.turns, candidates, merit)
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Replica;
    use crate::strategy::testing::Bench;
    use llmserve_core::Request;

    #[test]
    fn merit_comes_before_load_and_the_unknown_comes_last() {
        let change: [fn(Replica) -> Replica; 4] = [
            |r| r,
            |r| r.cost(2.0).quality(-1.0),
            |r| r.cost(0.5).quality(0.9),
            |r| r.cost(0.5).quality(0.8),
        ];
        let bench = Bench::with(change).outstanding(&[0, 0, 9, 3]);
        assert_eq!(bench.pick(&Cheapest::new()), Some(3));
        assert_eq!(bench.pick(&BestQuality::new()), Some(2));
        let of = |strategy: &dyn Strategy, set: [usize; 2]| {
            bench.pick_of(strategy, &Request::text(""), &set.into_iter().collect())
        };
        assert_eq!(of(&Cheapest::new(), [0, 1]), Some(1));
        assert_eq!(of(&BestQuality::new(), [0, 1]), Some(1));
    }
}
