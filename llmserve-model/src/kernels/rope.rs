//! Rotary position embedding (Su et al., 2021), by halves as `transformers` does it.

use super::buffer::Buffer;
use super::simd::{LANES, Simd};
use crate::config::{RopeConfig, RopeScaling};

/// Cosines and sines of positions, each computed when it first occurs.
///
/// Room for all positions is reserved at once, and costs no physical memory where the operating
/// system maps zeros lazily: a context of millions of tokens costs what is used of it.
#[derive(Debug)]
pub(crate) struct RopeTable {
    frequencies: Vec<f32>,
    cos: Buffer<f32>,
    sin: Buffer<f32>,
    /// Not 0 for positions whose cosines and sines are there.
    known: Buffer<u16>,
}

/// How fast each pair of dimensions turns, in radians a position.
pub(crate) fn frequencies(rope: &RopeConfig, head_dim: usize) -> Vec<f32> {
    let base = |pair: usize| rope.theta.powf(-(2.0 * pair as f64) / head_dim as f64);
    (0..head_dim / 2)
        .map(|pair| {
            let frequency = base(pair);
            let scaled = match rope.scaling {
                RopeScaling::None => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position,
                } => {
                    let original = original_max_position as f64;
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength > original / low_freq_factor {
                        frequency / factor
                    } else if wavelength < original / high_freq_factor {
                        frequency
                    } else {
                        let smooth = (original / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                }
            };
            scaled as f32
        })
        .collect()
}

impl RopeTable {
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.cos) + size_of_val(&*self.sin) + size_of_val(&*self.known)
    }

    /// A table for positions `0..positions`, none of them known yet; nothing if there is no memory
    /// for so many.
    pub(crate) fn try_new(frequencies: &[f32], positions: usize) -> Option<Self> {
        let len = frequencies.len().checked_mul(positions)?;
        Some(Self {
            frequencies: frequencies.to_vec(),
            cos: Buffer::try_zeroed(len)?,
            sin: Buffer::try_zeroed(len)?,
            known: Buffer::try_zeroed(positions)?,
        })
    }

    /// Makes `position` known, which [`rotate`](Self::rotate) relies on.
    ///
    /// # Panics
    /// For a position beyond the table.
    pub(crate) fn prepare(&mut self, position: usize) {
        if self.known[position] != 0 {
            return;
        }
        let half = self.frequencies.len();
        let range = position * half..(position + 1) * half;
        let pairs = self.cos[range.clone()].iter_mut().zip(&mut self.sin[range]);
        for (frequency, (to_cos, to_sin)) in self.frequencies.iter().zip(pairs) {
            // The product is rounded to f32 first, as in the reference.
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (*to_cos, *to_sin) = (cos, sin);
        }
        self.known[position] = 1;
    }

    /// Positions that the table has room for.
    pub(crate) fn positions(&self) -> usize {
        self.known.len()
    }

    /// Rotates `x` as standing at `position`, which was [`prepare`](Self::prepare)d. For every
    /// sixteen pairs of dimensions, or what is left of them, `put` receives the index of the first
    /// pair and what becomes of the pairs' first and second dimensions. Lanes beyond the last pair
    /// are zero.
    ///
    /// # Panics
    /// For a position beyond the table.
    #[inline(always)]
    pub(crate) fn rotate<S: Simd>(
        &self,
        s: S,
        position: usize,
        x: &[f32],
        mut put: impl FnMut(usize, S::V, S::V),
    ) {
        debug_assert_ne!(self.known[position], 0, "position {position} not prepared");
        let half = self.frequencies.len();
        let cos = &self.cos[position * half..(position + 1) * half];
        let sin = &self.sin[position * half..(position + 1) * half];
        let (low, high) = x.split_at(half);
        for at in (0..half).step_by(LANES) {
            let part = |x: &[f32]| s.load_some(&x[at..half.min(at + LANES)]);
            let (low, high, cos, sin) = (part(low), part(high), part(cos), part(sin));
            // Not fused, as in the reference.
            let first = s.sub(s.mul(low, cos), s.mul(high, sin));
            let second = s.add(s.mul(high, cos), s.mul(low, sin));
            put(at, first, second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, levels};
    use super::*;

    struct Rotate<'a>(&'a RopeTable, usize, &'a [f32], &'a mut [f32]);
    impl Kernel for Rotate<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Rotate(table, position, x, out) = self;
            let half = x.len() / 2;
            table.rotate(s, position, x, |at, first, second| {
                for (i, (a, b)) in s.lanes(first).into_iter().zip(s.lanes(second)).enumerate() {
                    if at + i < half {
                        (out[at + i], out[half + at + i]) = (a, b);
                    } else {
                        assert_eq!((a, b), (0.0, 0.0));
                    }
                }
            });
        }
    }

    #[test]
    fn turns_each_pair_by_its_angle() {
        let rope = RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        };
        let frequencies = frequencies(&rope, 8);
        assert_eq!(frequencies, [1.0, 0.1, 0.01, 0.001]);
        let mut table = RopeTable::try_new(&frequencies, 50).unwrap();
        assert_eq!(table.positions(), 50);
        table.prepare(37);
        table.prepare(0);
        table.prepare(37);
        let x: Vec<f32> = (0..8).map(|i| i as f32 - 3.5).collect();
        for level in levels() {
            let mut out = [0.0; 8];
            level.run(Rotate(&table, 37, &x, &mut out));
            for pair in 0..4 {
                let angle = 37.0 * 10f64.powi(-(pair as i32));
                let (a, b) = (f64::from(x[pair]), f64::from(x[pair + 4]));
                let (first, second) = (f64::from(out[pair]), f64::from(out[pair + 4]));
                assert!((first - (a * angle.cos() - b * angle.sin())).abs() < 1e-5);
                assert!((second - (b * angle.cos() + a * angle.sin())).abs() < 1e-5);
            }
            level.run(Rotate(&table, 0, &x, &mut out));
            assert_eq!(out[..], x[..]);
        }
    }

    #[test]
    fn room_for_many_positions_costs_nothing_and_too_much_is_refused() {
        let frequencies = [1.0; 64];
        assert!(RopeTable::try_new(&frequencies, usize::MAX / 64).is_none());
        assert!(RopeTable::try_new(&frequencies, usize::MAX / 2).is_none());
        let began = std::time::Instant::now();
        let mut table = RopeTable::try_new(&frequencies, 1 << 22).unwrap();
        table.prepare((1 << 22) - 1);
        assert!(began.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn scalings_stretch_what_they_should() {
        let plain = RopeConfig {
            theta: 500_000.0,
            scaling: RopeScaling::None,
        };
        let base = frequencies(&plain, 16);
        let linear = RopeConfig {
            scaling: RopeScaling::Linear { factor: 4.0 },
            ..plain
        };
        for (a, b) in frequencies(&linear, 16).iter().zip(&base) {
            assert!((a * 4.0 - b).abs() <= b * 1e-6);
        }
        let llama3 = RopeConfig {
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position: 32,
            },
            ..plain
        };
        let scaled = frequencies(&llama3, 16);
        assert_eq!(scaled[0], base[0]);
        assert!((scaled[7] * 8.0 - base[7]).abs() <= base[7] * 1e-6);
        assert!(
            scaled
                .iter()
                .zip(&base)
                .all(|(a, b)| a <= b && a * 8.01 >= *b)
        );
    }
}
