//! RMSNorm (Zhang and Sennrich, 2019), from rows to interleaved tiles.

use super::simd::{LANES, Simd};
use super::tiling::Tiling;
use super::{Kernel, Level};
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// A layer's normalisation: `x · weight / √(mean(x²) + eps)`.
#[derive(Clone, Copy)]
pub(crate) struct RmsNorm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

/// Normalises one row of `input` for each row of `tiling` (which one, `pick` says) into `out`,
/// interleaved.
pub(crate) fn rms_norm(
    team: &mut ThreadTeam,
    level: Level,
    norm: RmsNorm<'_>,
    input: &[f32],
    pick: impl Fn(usize) -> usize + Sync,
    tiling: Tiling,
    out: &mut [f32],
) -> Result<(), TaskPanicked> {
    let RmsNorm { weight, eps } = norm;
    let width = weight.len();
    let out = Disjoint::new(out);
    team.run(tiling.tiles(), |tile, _| {
        let rows = tiling.tile(tile);
        // SAFETY: each task has its own tile.
        let out = unsafe { out.part(rows.start * width..rows.end * width) };
        let step = rows.len();
        for (at, row) in rows.enumerate() {
            let from = pick(row) * width;
            level.run(Row {
                input: &input[from..from + width],
                weight,
                eps,
                out: &mut out[at..],
                step,
            });
        }
    })
}

struct Row<'a> {
    input: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
    step: usize,
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (chunks, rest) = self.input.as_chunks::<LANES>();
        let mut squares = s.splat(0.0);
        for chunk in chunks {
            let x = s.load(chunk);
            squares = s.fma(x, x, squares);
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let x = s.load(&last);
        squares = s.fma(x, x, squares);
        let mean = s.sum(squares) / self.input.len() as f32;
        let scale = 1.0 / (mean + self.eps).sqrt();
        if self.step == 1 {
            for ((to, x), w) in self.out.iter_mut().zip(self.input).zip(self.weight) {
                *to = x * scale * w;
            }
        } else {
            let out = self.out.iter_mut().step_by(self.step);
            for ((to, x), w) in out.zip(self.input).zip(self.weight) {
                *to = x * scale * w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;

    #[test]
    fn matches_the_formula_and_does_not_see_the_neighbours() {
        let mut team = ThreadTeam::new(2).unwrap();
        for level in levels() {
            for width in [2, 15, 16, 24, 64, 100] {
                let rows = 14;
                let input: Vec<f32> = (0..rows * width)
                    .map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0)
                    .collect();
                let weight: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 / 64.0).collect();
                let tiling = Tiling::new(rows, level.tile_rows());
                let mut out = vec![0.0; rows * width];
                let norm = RmsNorm {
                    weight: &weight,
                    eps: 1e-5,
                };
                rms_norm(&mut team, level, norm, &input, |r| r, tiling, &mut out).unwrap();
                for row in 0..rows {
                    let x = &input[row * width..(row + 1) * width];
                    let square: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                    let scale = 1.0 / (square / width as f64 + 1e-5).sqrt();
                    let alone = Tiling::new(1, 1);
                    let mut single = vec![0.0; width];
                    let pick = |_| row;
                    rms_norm(&mut team, level, norm, &input, pick, alone, &mut single).unwrap();
                    let place = tiling.place(row, width);
                    for k in 0..width {
                        let got = out[place.start + k * place.step];
                        let want = f64::from(x[k]) * scale * f64::from(weight[k]);
                        assert!((f64::from(got) - want).abs() < 1e-5 * want.abs().max(1e-3));
                        assert_eq!(got.to_bits(), single[k].to_bits());
                    }
                }
            }
        }
    }
}
