//! Rotary position embedding (Su et al., 2021), by halves as `transformers` does it.

use crate::config::{RopeConfig, RopeScaling};

/// Cosines and sines of every position that can occur.
#[derive(Debug, Default)]
pub(crate) struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
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
    /// The table of positions `0..positions`.
    pub(crate) fn new(frequencies: &[f32], positions: usize) -> Self {
        let mut table = Self {
            half: frequencies.len(),
            cos: Vec::with_capacity(frequencies.len() * positions),
            sin: Vec::with_capacity(frequencies.len() * positions),
        };
        for position in 0..positions {
            for frequency in frequencies {
                // The product is rounded to f32 first, as in the reference.
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                table.cos.push(cos);
                table.sin.push(sin);
            }
        }
        table
    }

    /// Positions that the table covers.
    pub(crate) fn positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Rotates `x` as standing at `position`; `put` receives every dimension's result.
    ///
    /// # Panics
    /// For a position beyond the table.
    #[inline(always)]
    pub(crate) fn rotate(&self, position: usize, x: &[f32], mut put: impl FnMut(usize, f32)) {
        let half = self.half;
        let cos = &self.cos[position * half..(position + 1) * half];
        let sin = &self.sin[position * half..(position + 1) * half];
        let (low, high) = x.split_at(half);
        for (pair, ((low, high), (cos, sin))) in
            low.iter().zip(high).zip(cos.iter().zip(sin)).enumerate()
        {
            put(pair, low * cos - high * sin);
            put(half + pair, high * cos + low * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_each_pair_by_its_angle() {
        let rope = RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        };
        let frequencies = frequencies(&rope, 8);
        assert_eq!(frequencies, [1.0, 0.1, 0.01, 0.001]);
        let table = RopeTable::new(&frequencies, 50);
        assert_eq!(table.positions(), 50);
        let x: Vec<f32> = (0..8).map(|i| i as f32 - 3.5).collect();
        let mut out = [0.0; 8];
        table.rotate(37, &x, |i, y| out[i] = y);
        for pair in 0..4 {
            let angle = 37.0 * 10f64.powi(-(pair as i32));
            let (a, b) = (f64::from(x[pair]), f64::from(x[pair + 4]));
            assert!((f64::from(out[pair]) - (a * angle.cos() - b * angle.sin())).abs() < 1e-5);
            assert!((f64::from(out[pair + 4]) - (b * angle.cos() + a * angle.sin())).abs() < 1e-5);
        }
        table.rotate(0, &x, |i, y| out[i] = y);
        assert_eq!(out[..], x[..]);
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
