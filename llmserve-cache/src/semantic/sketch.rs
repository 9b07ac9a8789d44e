//! One bit a dimension: what tells which vectors are worth reading.
//!
//! ```text
//!  vector ─► rotated: signs flipped and mixed, so that no dimension says more than another
//!              ├─► signs    one bit a dimension, 64 to a word
//!              └─► factor   1 / Σ |rotated|
//!
//!  query  ─► rotated ─► 4 bits a dimension, as 4 planes of bits
//!
//!  cosine ≈ step · factor · Σ 2ᵖ (dimensions − 2 · ones(signs xor plane p))
//! ```
//!
//! The estimate is right on average, whatever the vectors are, because of the rotation, and it is
//! known how far off it is: Gao and Long, RaBitQ, SIGMOD 2024. Reading signs takes an eighth of the
//! memory that reading bytes takes, and counting ones is whole numbers, so the same on every
//! machine.

use pulp::{Arch, NullaryFnOnce};

/// Bits of a query's dimension. With fewer, its own rounding would be seen beside what signs lose.
const PLANES: usize = 4;
/// The largest step of a query's dimension: steps are odd, from −15 to 15.
const TOP: i32 = (1 << PLANES) - 1;
/// Rows whose words lie beside each other, so that all are counted at once.
pub(super) const LANES: usize = 8;
/// What signs lose: the deviation of an estimate in `1 / √dimensions`, for vectors at a right angle.
/// It is √(π/2 − 1).
const SIGNS: f32 = 0.756;
/// What rounding a query loses: the deviation of an estimate in steps. It is √(π/2) · 2 / √12.
const ROUNDING: f32 = 0.724;

/// A vector's signs, and what makes a cosine of them.
pub(super) struct Sketch {
    pub(super) words: Vec<u64>,
    pub(super) factor: f32,
}

impl Sketch {
    /// Of a vector of about length 1, which is left rotated.
    pub(super) fn new(vector: &mut [f32]) -> Self {
        rotate(vector);
        let mut words = vec![0; words(vector.len())];
        for (word, part) in words.iter_mut().zip(vector.chunks(64)) {
            for (bit, x) in part.iter().enumerate() {
                *word |= u64::from(*x >= 0.0) << bit;
            }
        }
        let factor = 1.0 / vector.iter().map(|x| x.abs()).sum::<f32>();
        Self { words, factor }
    }
}

/// Words of a sketch.
pub(super) const fn words(dimensions: usize) -> usize {
    dimensions.div_ceil(64)
}

/// A query, for sketches.
pub(super) struct Asked {
    planes: Vec<[u64; PLANES]>,
    dimensions: usize,
    /// Cosine of an estimate of 1.
    pub(super) step: f32,
}

impl Asked {
    /// Of a vector of length 1.
    pub(super) fn new(unit: &[f32]) -> Self {
        let mut rotated = unit.to_vec();
        rotate(&mut rotated);
        let largest = rotated.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let step = largest / TOP as f32;
        let (mut square, mut rounded) = (0.0f32, 0.0f32);
        let mut planes = vec![[0; PLANES]; words(unit.len())];
        for (planes, part) in planes.iter_mut().zip(rotated.chunks(64)) {
            for (bit, x) in part.iter().enumerate() {
                let level = (x / step + TOP as f32) / 2.0;
                let level = level.round().clamp(0.0, TOP as f32) as u64;
                square += x * x;
                rounded += x * (2 * level as i32 - TOP) as f32;
                for (p, plane) in planes.iter_mut().enumerate() {
                    *plane |= (level >> p & 1) << bit;
                }
            }
        }
        Self {
            planes,
            dimensions: unit.len(),
            // Of what was rounded, so that it is as long as what was not.
            step: square / rounded,
        }
    }

    /// Deviation of the estimate of a cosine, as a cosine: the nearer, the less.
    pub(super) fn deviation(&self, cosine: f32) -> f32 {
        let signs = SIGNS * SIGNS * (1.0 - cosine * cosine).max(0.0) / self.dimensions as f32;
        let rounding = ROUNDING * self.step;
        (signs + rounding * rounding).sqrt()
    }

    /// Writes the estimates of rows, in [`step`](Self::step)s. `words` are those of [`LANES`] rows
    /// after each other, word by word; `factors` and `estimates` are as many whole groups of rows.
    pub(super) fn estimate(
        &self,
        by: Counting,
        words: &[u64],
        factors: &[f32],
        estimates: &mut [f32],
    ) {
        by.count(Estimate {
            asked: self,
            words,
            factors,
            estimates,
        });
    }
}

struct Estimate<'a> {
    asked: &'a Asked,
    words: &'a [u64],
    factors: &'a [f32],
    estimates: &'a mut [f32],
}

impl NullaryFnOnce for Estimate<'_> {
    type Output = ();

    // Inlined into what dispatches, it is compiled once for each instruction set.
    #[inline(always)]
    fn call(self) {
        let planes = &self.asked.planes;
        let all = TOP * self.asked.dimensions as i32;
        let words = self.words.chunks_exact(LANES * planes.len());
        let factors = self.factors.chunks_exact(LANES);
        let estimates = self.estimates.chunks_exact_mut(LANES);
        for ((words, factors), estimates) in words.zip(factors).zip(estimates) {
            let mut ones = [[0u64; LANES]; PLANES];
            for (words, planes) in words.chunks_exact(LANES).zip(planes) {
                for (ones, plane) in ones.iter_mut().zip(planes) {
                    for (ones, word) in ones.iter_mut().zip(words) {
                        *ones += u64::from((word ^ plane).count_ones());
                    }
                }
            }
            for (lane, estimate) in estimates.iter_mut().enumerate() {
                let weighed: u64 = (0..PLANES).map(|p| ones[p][lane] << p).sum();
                *estimate = (all - 2 * weighed as i32) as f32 * factors[lane];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    pulp::simd_type!({
        /// Counts the ones of eight words at once.
        #[allow(missing_docs)]
        pub(super) struct Ones {
            pub(super) popcnt: f!("popcnt"),
            pub(super) avx512f: f!("avx512f"),
            pub(super) avx512bw: f!("avx512bw"),
            pub(super) avx512dq: f!("avx512dq"),
            pub(super) avx512vl: f!("avx512vl"),
            pub(super) avx512vpopcntdq: f!("avx512vpopcntdq"),
        }
    });
}

/// What this processor counts ones by.
#[derive(Clone, Copy)]
pub(super) struct Counting {
    arch: Arch,
    #[cfg(target_arch = "x86_64")]
    ones: Option<x86::Ones>,
}

impl Counting {
    pub(super) fn new() -> Self {
        Self {
            arch: Arch::new(),
            #[cfg(target_arch = "x86_64")]
            ones: x86::Ones::try_new(),
        }
    }

    fn count(self, estimate: Estimate<'_>) {
        #[cfg(target_arch = "x86_64")]
        if let Some(ones) = self.ones {
            return ones.vectorize(
                #[inline(always)]
                || estimate.call(),
            );
        }
        self.arch.dispatch(estimate);
    }
}

/// Rotates: flips signs by chance, though always the same, and mixes, four times. Mixing is by
/// powers of two: the first so many dimensions and the last, in turns.
fn rotate(vector: &mut [f32]) {
    let dimensions = vector.len();
    let mixed = 1 << dimensions.max(1).ilog2();
    let mut chance = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..4 {
        for part in vector.chunks_mut(64) {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            for (bit, x) in part.iter_mut().enumerate() {
                if chance >> bit & 1 == 1 {
                    *x = -*x;
                }
            }
        }
        match round % 2 {
            0 => mix(&mut vector[..mixed]),
            _ => mix(&mut vector[dimensions - mixed..]),
        }
    }
}

/// The Walsh–Hadamard transform, which keeps lengths. As many numbers as a power of two.
fn mix(part: &mut [f32]) {
    let mut half = 1;
    while half < part.len() {
        for pair in part.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let keep = 1.0 / (part.len() as f32).sqrt();
    part.iter_mut().for_each(|x| *x *= keep);
}

#[cfg(test)]
mod tests;
