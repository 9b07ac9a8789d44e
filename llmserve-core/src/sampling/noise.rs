//! Noise without a state: a pure function of (seed, choice, position, token).
//!
//! The Gumbel-max trick: with independent Gᵢ = −ln(−ln uᵢ), uᵢ uniform in (0, 1), the token of the
//! greatest lᵢ + Gᵢ is distributed as softmax(l). Drawing uᵢ from a hash of where it is used,
//! rather than from a generator that is advanced (Salmon et al., "Parallel Random Numbers: As Easy
//! as 1, 2, 3", SC 2011), makes the pick independent of how many others were drawn, when, and
//! beside which neighbours.
//!
//! A row's key is the XXH3-128 of (seed, choice, position), 24 bytes little-endian. A token's
//! bits are SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) over the token, keyed before
//! and between its rounds: a few instructions for each token.

use super::math::{ln, neg_ln_one_minus};
use crate::ids::TokenId;
use std::f64::consts::LOG2_E;
use xxhash_rust::xxh3::xxh3_128;

/// The noise of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    before: u64,
    between: u64,
}

impl Noise {
    /// The noise of the token at `position` of `choice`.
    pub(super) fn new(seed: u64, choice: usize, position: usize) -> Self {
        let mut place = [0u8; 24];
        place[..8].copy_from_slice(&seed.to_le_bytes());
        place[8..16].copy_from_slice(&(choice as u64).to_le_bytes());
        place[16..].copy_from_slice(&(position as u64).to_le_bytes());
        let key = xxh3_128(&place);
        Self {
            before: key as u64,
            between: (key >> 64) as u64,
        }
    }

    /// 64 uniform bits for `token`. The fewer, the greater its [`gumbel`].
    #[inline]
    pub(super) fn bits(self, token: TokenId) -> u64 {
        let mut z = self
            .before
            .wrapping_add(u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ self.between;
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether one of the `count` tokens from `first` on may have [`bits`](Self::bits) up to
    /// `limit`. Never a false no; a yes is to be looked into.
    #[inline]
    pub(super) fn any_within(self, first: TokenId, count: usize, limit: u64) -> bool {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        /// Side by side, so that no hash waits for a comparison.
        const ABREAST: usize = 4;
        // The finaliser's last round leaves the upper 31 bits alone: they suffice.
        let limit = limit | ((1 << 33) - 1);
        let place = u64::from(first).wrapping_mul(STEP);
        let place = self.before.wrapping_add(place);
        let hash = |place: u64| {
            let z = (place ^ (place >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ self.between;
            (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        // The least is one instruction less a token than an answer for each.
        let mut least = [u64::MAX; ABREAST];
        let mut places: [u64; ABREAST] =
            std::array::from_fn(|i| place.wrapping_add(STEP.wrapping_mul(i as u64)));
        for _ in 0..count / ABREAST {
            for (least, place) in least.iter_mut().zip(&mut places) {
                *least = hash(*place).min(*least);
                *place = place.wrapping_add(STEP.wrapping_mul(ABREAST as u64));
            }
        }
        for &place in &places[..count % ABREAST] {
            least[0] = hash(place).min(least[0]);
        }
        least.iter().any(|&least| least <= limit)
    }

    /// The Gumbel noise of `token`.
    pub(super) fn gumbel(self, token: TokenId) -> f64 {
        gumbel(self.bits(token))
    }
}

const TWO_TO_52: f64 = 4_503_599_627_370_496.0;
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

/// Greatest value of [`gumbel`], rounded up.
const MOST: f64 = 45.1;

/// Bits as Gumbel noise, −ln(−ln(1 − v)) with v the bits as a number in (0, 1).
///
/// Taking 1 − v for u puts all 64 bits of resolution where winners come from: values reach from
/// −3.7 to 45, and two tokens tie about once in 10¹⁵ picks.
pub(super) fn gumbel(bits: u64) -> f64 {
    let v = (bits as f64 + 0.5) / TWO_TO_64;
    let v = v.min(1.0 - f64::EPSILON / 2.0);
    -ln(neg_ln_one_minus(v))
}

/// Bits that no [`gumbel`] from `lead` on exceeds; none when no bits reach it. Never too small,
/// and a sixteenth too great at most: a token above it can be passed over for two multiplications
/// instead of two logarithms.
#[inline]
pub(super) fn contenders(lead: f64) -> Option<u64> {
    if lead > MOST {
        return None;
    }
    if lead <= 0.0 {
        return Some(u64::MAX);
    }
    // G ≥ lead means −ln(1 − v) ≤ e^−lead, and v ≤ −ln(1 − v). A power 2^(n + f), 0 ≤ f < 1, is at
    // most 2ⁿ(1 + f), and that is the number with exponent n and mantissa f. The margin covers
    // rounding here and in the caller's subtraction; the cast saturates.
    let power = f64::from_bits(((1023.0 - lead * LOG2_E) * TWO_TO_52) as u64);
    Some((power * (1.0 + 1e-9) * TWO_TO_64) as u64 + u64::from(power < 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pearson correlation of two series.
    fn correlation(a: &[f64], b: &[f64]) -> f64 {
        let n = a.len() as f64;
        let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
        let cov: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
        let va: f64 = a.iter().map(|x| (x - ma).powi(2)).sum();
        let vb: f64 = b.iter().map(|y| (y - mb).powi(2)).sum();
        cov / (va * vb).sqrt()
    }

    #[test]
    fn moments_are_those_of_a_gumbel() {
        let n = 200_000;
        let draws: Vec<f64> = (0..n)
            .map(|i| Noise::new(11, i % 3, i / 3).gumbel((i % 997) as TokenId))
            .collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let variance = draws.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n as f64;
        // Euler's constant and π²/6; the bounds are five standard errors.
        assert!((mean - 0.577_215_66).abs() < 0.0145, "{mean}");
        assert!((variance - 1.644_934_07).abs() < 0.04, "{variance}");
    }

    #[test]
    fn bits_are_uniform_along_every_axis() {
        // Chi-square over 256 cells of the first and of the last byte; 255 degrees of freedom,
        // so a standard deviation of 22.6.
        type Axis = fn(usize) -> u64;
        let axes: [Axis; 4] = [
            |i| Noise::new(5, 0, 9).bits(i as TokenId),
            |i| Noise::new(5, 0, i).bits(9),
            |i| Noise::new(5, i, 9).bits(9),
            |i| Noise::new(i as u64, 0, 9).bits(9),
        ];
        for (which, axis) in axes.iter().enumerate() {
            for shift in [0, 56] {
                let mut cells = [0f64; 256];
                let n = 65_536;
                for i in 0..n {
                    cells[(axis(i) >> shift) as usize & 255] += 1.0;
                }
                let expected = n as f64 / 256.0;
                let chi: f64 = cells
                    .iter()
                    .map(|c| (c - expected).powi(2) / expected)
                    .sum();
                assert!(
                    (160.0..370.0).contains(&chi),
                    "axis {which}, {shift}: {chi}"
                );
            }
        }
    }

    #[test]
    fn neighbours_are_independent() {
        let n = 40_000;
        let base: Vec<f64> = (0..n).map(|i| Noise::new(1, 0, i).gumbel(7)).collect();
        let others: [Vec<f64>; 4] = [
            (0..n).map(|i| Noise::new(1, 0, i + 1).gumbel(7)).collect(),
            (0..n).map(|i| Noise::new(1, 0, i).gumbel(8)).collect(),
            (0..n).map(|i| Noise::new(1, 1, i).gumbel(7)).collect(),
            (0..n).map(|i| Noise::new(2, 0, i).gumbel(7)).collect(),
        ];
        for (axis, other) in others.iter().enumerate() {
            let r = correlation(&base, other);
            assert!(r.abs() < 5.0 / (n as f64).sqrt(), "axis {axis}: {r}");
        }
        // Along the tokens of one row, where only the finaliser mixes.
        let row: Vec<f64> = (0..n)
            .map(|t| Noise::new(3, 0, 0).gumbel(t as u32))
            .collect();
        for lag in [1, 2, 3, 64, 4096] {
            let r = correlation(&row[..n - lag], &row[lag..]);
            assert!(r.abs() < 5.0 / ((n - lag) as f64).sqrt(), "lag {lag}: {r}");
        }
    }

    #[test]
    fn one_flipped_bit_flips_half() {
        let mut flips = 0u64;
        let mut pairs = 0u64;
        for i in 0..2_000u64 {
            let (seed, choice, position, token) = (i * 77, i as usize % 5, i as usize, i as u32);
            let bits = Noise::new(seed, choice, position).bits(token);
            for b in 0..17 {
                for other in [
                    Noise::new(seed ^ (1 << b), choice, position).bits(token),
                    Noise::new(seed, choice ^ (1 << b), position).bits(token),
                    Noise::new(seed, choice, position ^ (1 << b)).bits(token),
                    Noise::new(seed, choice, position).bits(token ^ (1 << b)),
                ] {
                    flips += u64::from((bits ^ other).count_ones());
                    pairs += 1;
                }
            }
        }
        let mean = flips as f64 / pairs as f64;
        assert!((mean - 32.0).abs() < 0.1, "{mean}");
    }

    #[test]
    fn the_tails_are_finite_and_ordered() {
        let ladder = [
            0,
            1,
            2,
            1 << 20,
            1 << 40,
            1 << 62,
            3 << 62,
            u64::MAX - 4096,
            u64::MAX,
        ];
        let values: Vec<f64> = ladder.iter().map(|&bits| gumbel(bits)).collect();
        assert!(values.iter().all(|g| g.is_finite()), "{values:?}");
        assert!(values.windows(2).all(|w| w[0] >= w[1]), "{values:?}");
        assert!(values[0] < MOST && values[0] > 44.0);
        assert!(values[8] > -3.7);
    }

    #[test]
    fn no_contender_is_passed_over() {
        for i in 0..50_000u64 {
            let noise = Noise::new(i, 0, 0);
            // Spread over all magnitudes, not only the likely ones.
            let bits = noise.bits(0) >> (i % 64);
            let limit = contenders(gumbel(bits));
            assert!(limit.is_some_and(|limit| bits <= limit), "{bits} {limit:?}");
            let tight = gumbel(bits) < 3.0
                || limit.is_some_and(|limit| limit as f64 <= bits as f64 * 1.125 + 2.0);
            assert!(tight, "{bits} {limit:?}");
        }
        for i in 0..2_000u64 {
            let noise = Noise::new(i, 0, 0);
            let first = (i * 37) as TokenId;
            let bits = (first..first + 64).map(|token| noise.bits(token));
            let least = bits.min().unwrap_or(0);
            assert!(noise.any_within(first, 64, least));
            // Looser than the bits themselves by the 33 that are not looked at.
            let below = (least >> 33 << 33).checked_sub(1);
            assert!(below.is_none_or(|below| !noise.any_within(first, 64, below)));
        }
        assert_eq!(contenders(1e300), None);
        assert_eq!(contenders(f64::INFINITY), None);
        assert_eq!(contenders(-1.0), Some(u64::MAX));
        assert_eq!(contenders(0.0), Some(u64::MAX));
    }

    #[test]
    fn the_bits_are_pinned() {
        // A change here changes what every seed in the field means: it must be deliberate.
        let bits = [
            Noise::new(0, 0, 0).bits(0),
            Noise::new(42, 1, 17).bits(128_000),
        ];
        let pinned = [0x3546_8520_09bc_1145, 0x1aad_985f_3571_f0bf];
        assert_eq!(bits, pinned, "{bits:#x?}");
    }
}
