//! Random numbers for choices that shall not follow a pattern.

use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014):
/// one addition and a mix, so that several threads may draw from one counter.
#[derive(Debug)]
pub(crate) struct Rng(AtomicU64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(mix(seed)))
    }

    /// Seeded by the system.
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self::seeded(RandomState::new().hash_one(0))
    }

    /// 64 bits.
    pub(crate) fn bits(&self) -> u64 {
        let state = self.0.fetch_add(GOLDEN, Ordering::Relaxed);
        mix(state.wrapping_add(GOLDEN))
    }

    /// Less than `bound`, which is at least 1. Off uniform by less than `bound / 2^64`.
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Two different numbers below `bound`, or one twice where there is only one.
    pub(crate) fn pair(&self, bound: usize) -> Option<(usize, usize)> {
        if bound < 2 {
            return (bound == 1).then_some((0, 0));
        }
        let one = self.below(bound);
        let other = self.below(bound - 1);
        Some((one, if other < one { other } else { other + 1 }))
    }

    /// In `0.0..1.0`.
    pub(crate) fn unit(&self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

/// A bijection that scatters.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_all_values_come() {
        let (a, b) = (Rng::seeded(3), Rng::seeded(3));
        let mut seen = [0; 6];
        for _ in 0..600 {
            let drawn = a.below(6);
            assert_eq!(drawn, b.below(6));
            seen[drawn] += 1;
        }
        assert!(seen.iter().all(|count| *count > 60), "{seen:?}");
        assert!((0..100).all(|_| (0.0..1.0).contains(&a.unit())));
        let pairs = || (0..200).map(|_| a.pair(3));
        assert!(pairs().all(|pair| pair.is_some_and(|(one, two)| one != two && one.max(two) < 3)));
        assert_eq!((a.pair(1), a.pair(0)), (Some((0, 0)), None));
        assert_ne!(Rng::seeded(4).bits(), Rng::seeded(5).bits());
    }
}
