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
        let (one, other) = self.rng.pair(candidates.len())?;
        let (one, other) = (candidates.nth(one)?, candidates.nth(other)?);
        let load = |slot| candidates.outstanding(slot);
        Some(if load(other) < load(one) { other } else { one })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::Bench;

    #[test]
    fn the_busiest_is_never_picked() {
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
    }
}
