//! Noise without a state: a pure function of (seed, choice, position, token).
//!
//! The Gumbel-max trick: with independent Gᵢ = −ln(−ln uᵢ), uᵢ uniform in (0, 1), the token of the
//! greatest lᵢ + Gᵢ is distributed as softmax(l). Drawing uᵢ from a hash of where it is used,
//! rather than from a generator that is advanced (Salmon et al., "Parallel Random Numbers: As Easy
//! as 1, 2, 3", SC 2011), makes the pick independent of how many others were drawn, when, and
//! beside which neighbours.
//!
//! The winner is found without everybody's noise. Eᵢ = −ln uᵢ = e^−Gᵢ is an exponential, and of 64
//! exponentials the least is an exponential over 64, belongs to any of them alike, and is exceeded
//! by the others by exponentials once more, as exponentials have no memory. So the noise is drawn
//! that way round: a group's least and whose it is, then each other's distance from it. One hash
//! tells of a whole group whether it is worth a look (Maddison, Tarlow, Minka, "A* Sampling",
//! NeurIPS 2014).
//!
//! A row's key is the XXH3-128 of (seed, choice, position), 24 bytes little-endian. The bits of a
//! token or a group are SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) over its number,
//! keyed before and between its rounds.

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

    #[inline]
    fn hash(self, number: u64) -> u64 {
        let mut z = self
            .before
            .wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ self.between;
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 64 uniform bits for `token`. They are too many for its [`gumbel`](Self::gumbel) to reach a
    /// lead if they are more than its [`contenders`], and it has not the least of its group.
    #[inline]
    pub(super) fn bits(self, token: TokenId) -> u64 {
        self.hash(u64::from(token))
    }

    /// The group of `token`.
    #[inline]
    pub(super) fn group(self, token: TokenId) -> Group {
        let number = token / GROUP as TokenId;
        Group {
            number,
            // Beyond any token.
            bits: self.hash(1 << 32 | u64::from(number)),
        }
    }

    /// The Gumbel noise of `token`: from −3.7 to 45.1. Two tokens tie about once in 10¹⁵ picks.
    pub(super) fn gumbel(self, token: TokenId) -> f64 {
        let group = self.group(token);
        let more = match group.has_least(token) {
            true => 0.0,
            false => exponential(self.bits(token), 64),
        };
        -ln(group.least() + more)
    }
}

/// Tokens whose noise is drawn together.
pub(super) const GROUP: usize = 64;
/// Bits that tell which of them has the least.
const PLACE: u32 = GROUP.trailing_zeros();
/// ln 64.
const LN_GROUP: f64 = 4.158_883_083_359_671_5;

/// What is known of [`GROUP`] tokens, the first of them a multiple of it, by one hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    number: TokenId,
    /// Above the lowest six, the least; in the lowest six, whose it is.
    bits: u64,
}

impl Group {
    /// Whether `token` is one of the group.
    #[inline]
    pub(super) fn includes(self, token: TokenId) -> bool {
        token / GROUP as TokenId == self.number
    }

    /// Whether `token`, one of the group, has the least.
    #[inline]
    pub(super) fn has_least(self, token: TokenId) -> bool {
        u64::from(token) % GROUP as u64 == self.bits % GROUP as u64
    }

    /// Whether the noise of one of the group may be of those that [`group_contenders`] told.
    /// Never a false no.
    #[inline]
    pub(super) fn is_within(self, limit: u64) -> bool {
        self.bits >> PLACE << PLACE <= limit
    }

    fn least(self) -> f64 {
        exponential(self.bits >> PLACE, 64 - PLACE) / GROUP as f64
    }
}

/// `width` uniform bits as an exponential, −ln(1 − v) with v the bits as a number in (0, 1).
///
/// Taking 1 − v for u puts all the resolution where winners come from.
fn exponential(bits: u64, width: u32) -> f64 {
    let v = (bits as f64 + 0.5) / (2.0 * (1u64 << (width - 1)) as f64);
    neg_ln_one_minus(v.min(1.0 - f64::EPSILON / 2.0))
}

const TWO_TO_52: f64 = 4_503_599_627_370_496.0;
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

/// Greatest noise, rounded up.
const MOST: f64 = 45.1;

/// Bits of a whole group within which somebody's noise may reach `lead`; none when nobody's does.
#[inline]
pub(super) fn group_contenders(lead: f64) -> Option<u64> {
    contenders(lead - LN_GROUP)
}

/// Bits that no noise −ln(−ln(1 − v)) from `lead` on exceeds; none when no bits reach it. Never too
/// small, and a sixteenth too great at most: a token above it can be passed over for two
/// multiplications instead of two logarithms.
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
        let noise = |bits, place, token| {
            let group = Group {
                number: 0,
                bits: bits << PLACE | place,
            };
            let more = match group.has_least(token) {
                true => 0.0,
                false => exponential(bits, 64),
            };
            -ln(group.least() + more)
        };
        let ladder = [0, 1, 2, 1 << 20, 1 << 40, 1 << 57, 3 << 56, (1 << 58) - 1];
        for place in [5, 6] {
            let values: Vec<f64> = ladder.iter().map(|&bits| noise(bits, place, 5)).collect();
            assert!(values.iter().all(|g| g.is_finite()), "{values:?}");
            assert!(values.windows(2).all(|w| w[0] >= w[1]), "{values:?}");
            assert!(values[0] < MOST && values[0] > 40.0, "{values:?}");
        }
        for bits in [0, 1, u64::MAX - 4096, u64::MAX] {
            let alone = exponential(bits, 64);
            assert!(alone > 0.0 && -ln(alone) < MOST && -ln(alone + 0.6) > -3.7);
        }
    }

    #[test]
    fn everyone_has_the_least_of_a_group_as_often_and_others_have_more() {
        let n = 64_000u64;
        let mut cells = [0f64; GROUP];
        for i in 0..n {
            let noise = Noise::new(i, 0, 3);
            let tokens = 640..640 + GROUP as TokenId;
            let group = noise.group(645);
            assert!(tokens.clone().all(|token| group.includes(token)));
            assert!(!group.includes(639) && !group.includes(704));
            let best = tokens.max_by(|&a, &b| noise.gumbel(a).total_cmp(&noise.gumbel(b)));
            let best = best.unwrap_or(0);
            assert!(group.has_least(best));
            cells[best as usize % GROUP] += 1.0;
        }
        // 63 degrees of freedom: a standard deviation of 11.2.
        let expected = n as f64 / GROUP as f64;
        let chi: f64 = cells
            .iter()
            .map(|c| (c - expected).powi(2) / expected)
            .sum();
        assert!((20.0..120.0).contains(&chi), "{chi}");
    }

    #[test]
    fn no_contender_is_passed_over() {
        for i in 0..50_000u64 {
            let noise = Noise::new(i, 0, 0);
            // Spread over all magnitudes, not only the likely ones.
            let bits = noise.bits(0) >> (i % 64);
            let gumbel = -ln(exponential(bits, 64));
            let limit = contenders(gumbel);
            assert!(limit.is_some_and(|limit| bits <= limit), "{bits} {limit:?}");
            let tight = gumbel < 3.0
                || limit.is_some_and(|limit| limit as f64 <= bits as f64 * 1.125 + 2.0);
            assert!(tight, "{bits} {limit:?}");
        }
        for i in 0..20_000u64 {
            let number = (i * 37) as TokenId;
            let bits = Noise::new(i, 0, 0).bits(0) >> (i % 64);
            let group = Group { number, bits };
            let lead = -ln(group.least());
            assert!(group_contenders(lead).is_some_and(|limit| group.is_within(limit)));
            // A seventh beyond its reach it is passed over, but for one of the very least.
            let loose = group_contenders(lead + 0.14).is_some_and(|limit| group.is_within(limit));
            assert!(!loose || lead < 7.0 || bits < 1 << 16, "{bits}");
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
        let group = Noise::new(42, 1, 17).group(128_000);
        assert_eq!((group.number, group.bits), (2000, 0x0907_635e_42e8_386f));
    }
}
