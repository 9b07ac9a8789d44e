//! The better of two.

use super::Strategy;
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::random::Rng;

/// Of two candidates drawn at random, the one with fewer outstanding requests; with equally many,
/// the first drawn.
///
/// Nearly as even as [`LeastLoaded`](crate::LeastLoaded) (Mitzenmacher, "The power of two choices
/// in randomized load balancing", 2001) at a cost that does not grow with the fleet; and several
/// routers that see only their own load do not all run to the same replica.
#[derive(Debug, Default)]
pub struct PowerOfTwo {
    rng: Rng,
}

impl PowerOfTwo {
    /// Seeded by the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same picks for the same seed and loads.
    pub fn seeded(seed: u64) -> Self {
        Self {
            rng: Rng::seeded(seed),
        }
    }
}

impl Strategy for PowerOfTwo {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let (one, other) = pair(&self.rng, candidates.len())?;
        let (one, other) = (candidates.nth(one)?, candidates.nth(other)?);
        let load = |slot| candidates.outstanding(slot);
        Some(if load(other) < load(one) { other } else { one })
    }
}

/// Two different numbers below `bound`, or one twice where there is only one.
pub(crate) fn pair(rng: &Rng, bound: usize) -> Option<(usize, usize)> {
    if bound < 2 {
        return (bound == 1).then_some((0, 0));
    }
    let one = rng.below(bound);
    let other = rng.below(bound - 1);
    Some((one, if other < one { other } else { other + 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::Bench;

    #[test]
    fn the_busiest_is_never_picked_and_pairs_differ() {
        let strategy = PowerOfTwo::seeded(2);
        let bench = Bench::of(4).outstanding(&[1, 9, 1, 0]);
        let mut counts = [0; 4];
        for _ in 0..600 {
            counts[bench.pick(&strategy).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        // In half of the pairs.
        assert!((250..350).contains(&counts[3]), "{counts:?}");
        assert_eq!(Bench::of(1).pick(&strategy), Some(0));
        let rng = Rng::seeded(1);
        assert!((0..200).all(|_| pair(&rng, 3).is_some_and(|(a, b)| a != b && a.max(b) < 3)));
        assert_eq!(pair(&rng, 0), None);
    }
}
