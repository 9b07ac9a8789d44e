//! Layer normalisation of rows, in place.

use super::simd::{LANES, Simd};
use super::tiling::Tiling;
use super::{Kernel, Level};
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// Rows of a task: fewer are not worth waking anybody.
const ROWS: usize = 8;

/// `(x - mean(x)) / √(var(x) + eps) · weight + bias` (Ba, Kiros and Hinton, 2016), with the mean of
/// the squared distances as the variance.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

/// A table whose rows are added to those that are normalised: row `rows[i]` to row `i`.
#[derive(Clone, Copy)]
pub(crate) struct Added<'a> {
    pub(crate) table: &'a [f32],
    pub(crate) rows: &'a [u32],
}

impl LayerNorm {
    /// Of a weight and a bias, of which there are as many.
    pub(crate) fn new(weight: Vec<f32>, bias: Vec<f32>, eps: f32) -> Self {
        debug_assert_eq!(weight.len(), bias.len());
        Self { weight, bias, eps }
    }

    /// Normalises the rows of `x`, as wide as the weight, after having added to each its row of a
    /// table.
    pub(crate) fn apply(
        &self,
        team: &mut ThreadTeam,
        level: Level,
        x: &mut [f32],
        added: Option<Added<'_>>,
    ) -> Result<(), TaskPanicked> {
        let width = self.weight.len();
        let tiling = Tiling::new(x.len() / width, ROWS);
        let x = Disjoint::new(x);
        team.run(tiling.tiles(), |tile, _| {
            let rows = tiling.tile(tile);
            // SAFETY: each row is in one tile.
            let x = unsafe { x.part(rows.start * width..rows.end * width) };
            for (row, x) in rows.zip(x.chunks_exact_mut(width)) {
                let added = added.map_or(&[][..], |added| {
                    let from = added.rows[row] as usize * width;
                    &added.table[from..from + width]
                });
                level.run(Row {
                    norm: self,
                    x,
                    added,
                });
            }
        })
    }
}

struct Row<'a> {
    norm: &'a LayerNorm,
    x: &'a mut [f32],
    /// As many numbers, or none.
    added: &'a [f32],
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { norm, x, added } = self;
        let width = x.len() as f32;
        for (x, added) in x.chunks_mut(LANES).zip(added.chunks(LANES)) {
            s.store_some(s.add(s.load_some(x), s.load_some(added)), x);
        }
        let mut sum = s.splat(0.0);
        for x in x.chunks(LANES) {
            sum = s.add(sum, s.load_some(x));
        }
        let mean = s.splat(s.sum(sum) / width);
        for x in x.chunks_mut(LANES) {
            s.store_some(s.sub(s.load_some(x), mean), x);
        }
        // Lanes beyond the last number are zeros, which add nothing.
        let mut squares = s.splat(0.0);
        for x in x.chunks(LANES) {
            let x = s.load_some(x);
            squares = s.fma(x, x, squares);
        }
        let scale = s.splat(1.0 / (s.sum(squares) / width + norm.eps).sqrt());
        let channels = norm.weight.chunks(LANES).zip(norm.bias.chunks(LANES));
        for (x, (weight, bias)) in x.chunks_mut(LANES).zip(channels) {
            let y = s.mul(s.load_some(x), scale);
            s.store_some(s.fma(y, s.load_some(weight), s.load_some(bias)), x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;

    #[test]
    fn matches_its_definition_whatever_the_width() {
        let mut team = ThreadTeam::new(2).unwrap();
        for level in levels() {
            for (rows, width) in [(1, 1), (3, 5), (20, 16), (9, 33), (2, 384)] {
                let number = |i: usize| ((i * 7919 + 13) % 101) as f32 / 17.0 - 2.5;
                let weight: Vec<f32> = (0..width).map(|i| number(i + 3)).collect();
                let bias: Vec<f32> = (0..width).map(|i| number(i + 9)).collect();
                let table: Vec<f32> = (0..2 * width).map(|i| number(i + 40)).collect();
                let which: Vec<u32> = (0..rows).map(|row| row as u32 % 2).collect();
                let x: Vec<f32> = (0..rows * width).map(|i| number(i * i)).collect();
                let norm = LayerNorm::new(weight.clone(), bias.clone(), 1e-5);
                for added in [false, true] {
                    let mut got = x.clone();
                    let table = Added {
                        table: &table,
                        rows: &which,
                    };
                    norm.apply(&mut team, level, &mut got, added.then_some(table))
                        .unwrap();
                    for row in 0..rows {
                        let wide: Vec<f64> = (0..width)
                            .map(|i| {
                                let plus = table.table[which[row] as usize * width + i];
                                f64::from(x[row * width + i])
                                    + f64::from(if added { plus } else { 0.0 })
                            })
                            .collect();
                        let mean = wide.iter().sum::<f64>() / width as f64;
                        let variance =
                            wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                        for i in 0..width {
                            let want = (wide[i] - mean) / (variance + 1e-5).sqrt()
                                * f64::from(weight[i])
                                + f64::from(bias[i]);
                            let got = f64::from(got[row * width + i]);
                            assert!((got - want).abs() < 2e-5, "{width}: {got} {want}");
                        }
                    }
                }
            }
        }
    }
}
