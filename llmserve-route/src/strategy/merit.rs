//! By what replicas cost and how good they are.

use parking_lot::Mutex;

use super::{Strategy, turns::Turns};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// The cheapest candidate, by [`cost`](ReplicaInfo::cost); among equals the one with the fewest
/// outstanding requests.
///
/// One without a cost counts as dearer than any with one. The cheapest fill up to their
/// [`capacity`](ReplicaInfo::capacity) before anybody else gets something, so give them one.
#[derive(Debug, Default)]
pub struct Cheapest {
    merits: Merits,
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
    merits: Merits,
}

impl BestQuality {
    /// Begins with the first of equals.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Numbers of which the least is the best.
#[derive(Debug, Default)]
struct Merits {
    /// Those of each merit, ascending.
    ranks: Mutex<Vec<(f64, ReplicaSet)>>,
    turns: Turns,
}

impl Merits {
    /// The least loaded of those with the least.
    fn least(&self, candidates: &Candidates<'_>) -> Option<Slot> {
        let ranks = self.ranks.lock();
        let outstanding = |candidates: &Candidates<'_>| {
            self.turns
                .least(candidates, |_, load| u64::from(load.outstanding))
        };
        for (_, rank) in &*ranks {
            let mut those = rank.clone();
            those.intersect(candidates.set());
            if !those.is_empty() {
                return outstanding(&candidates.within(&those));
            }
        }
        outstanding(candidates)
    }

    fn joined(&self, slot: Slot, merit: Option<f64>) {
        self.left(slot);
        let merit = merit.filter(|merit| !merit.is_nan());
        let merit = merit.unwrap_or(f64::INFINITY);
        let mut ranks = self.ranks.lock();
        let at = ranks.partition_point(|(rank, _)| *rank < merit);
        if ranks.get(at).is_none_or(|(rank, _)| *rank > merit) {
            ranks.insert(at, (merit, ReplicaSet::new()));
        }
        ranks[at].1.insert(slot.index());
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
        self.ranks.lock().retain_mut(|(_, those)| {
            those.remove(slot.index());
            !those.is_empty()
        });
    }
}

impl Strategy for Cheapest {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        self.merits.least(candidates)
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        self.merits.joined(slot, info.cost);
    }

    fn left(&self, slot: Slot) {
        self.merits.left(slot);
    }
}

impl Strategy for BestQuality {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        self.merits.least(candidates)
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        self.merits
            .joined(slot, info.quality.map(|quality| -f64::from(quality)));
    }

    fn left(&self, slot: Slot) {
        self.merits.left(slot);
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
        let of_all = |strategy: &dyn Strategy| {
            for (slot, replica) in bench.fleet.members() {
                strategy.joined(slot, replica.info());
            }
            bench.pick(strategy)
        };
        let (cheapest, best) = (Cheapest::new(), BestQuality::new());
        assert_eq!(of_all(&cheapest), Some(3));
        assert_eq!(of_all(&best), Some(2));
        let of = |strategy: &dyn Strategy, set: [usize; 2]| {
            bench.pick_of(strategy, &Request::text(""), &set.into_iter().collect())
        };
        assert_eq!(of(&cheapest, [0, 1]), Some(1));
        assert_eq!(of(&best, [0, 1]), Some(1));
    }
}
