//! The matrix product of a step's rows with packed weights, and what is done with each result.

use std::ops::Range;

use super::activation::gated;
use super::packed::{PANEL, Packed, Panels, Weight};
use super::simd::Simd;
use super::tile::{Block, MOST_PANELS, MOST_ROWS, multiply};
use super::tiling::Tiling;
use super::{Kernel, Level};
use crate::config::Activation;
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// Where results go.
pub(crate) enum Output<'a> {
    /// Row-major, `stride` numbers from row to row.
    Store {
        /// The matrix.
        out: &'a mut [f32],
        /// From row to row.
        stride: usize,
    },
    /// Added to what is there, row-major: the residual stream.
    Add {
        /// The matrix.
        out: &'a mut [f32],
        /// From row to row.
        stride: usize,
    },
    /// `activation(gate) · up`, interleaved by the tiling, as the next product reads it.
    Gated {
        /// The matrix, as wide as one of the pair.
        out: &'a mut [f32],
        /// Between the two.
        activation: Activation,
    },
}

#[derive(Clone, Copy)]
enum Sink<'a> {
    Store(Disjoint<'a, f32>, usize),
    Add(Disjoint<'a, f32>, usize),
    Gated(Disjoint<'a, f32>, Activation),
}

/// Bytes of interleaved rows that are multiplied with panel after panel before the next rows are
/// turned to: they stay in the second-level cache together with a panel.
const ROW_BLOCK: usize = 1 << 20;

/// Least rows of such a block: so many share one pass over the weights.
const LEAST_BLOCK: usize = 72;

/// Tasks for each thread, so that a late one costs little.
const TASKS_A_THREAD: usize = 8;

/// Multiplies the rows of `input`, interleaved by `tiling`, with `weights`.
///
/// The result of a row depends on nothing but the row and the weights: tiles, panels and tasks
/// decide only who computes it when.
pub(crate) fn gemm(
    team: &mut ThreadTeam,
    level: Level,
    input: &[f32],
    tiling: Tiling,
    weights: &Packed,
    output: Output<'_>,
) -> Result<(), TaskPanicked> {
    let sink = match output {
        Output::Store { out, stride } => Sink::Store(Disjoint::new(out), stride),
        Output::Add { out, stride } => Sink::Add(Disjoint::new(out), stride),
        Output::Gated { out, activation } => Sink::Gated(Disjoint::new(out), activation),
    };
    let rows = tiling.rows();
    if rows == 0 || weights.panels == 0 {
        return Ok(());
    }
    let block = (ROW_BLOCK / (4 * weights.depth.max(1))).max(LEAST_BLOCK);
    let blocks = rows.div_ceil(block).min(tiling.tiles());
    let tiles = tiling.tiles().div_ceil(blocks);
    let blocks = tiling.tiles().div_ceil(tiles);

    // Whole quadruples where there are plenty, whole pairs always.
    let wanted = (team.threads() * TASKS_A_THREAD).div_ceil(blocks).max(1);
    let group = weights.panels.div_ceil(wanted);
    let unit = if group >= MOST_PANELS { MOST_PANELS } else { 2 };
    let group = group.next_multiple_of(unit);
    let groups = weights.panels.div_ceil(group);

    team.run(blocks * groups, |task, _| {
        let (block, part) = (task / groups, task % groups);
        let tiles = block * tiles..((block + 1) * tiles).min(tiling.tiles());
        let panels = part * group..((part + 1) * group).min(weights.panels);
        let job = Job {
            input,
            tiling,
            weights,
            sink,
            tiles,
            panels,
        };
        match &weights.data {
            Panels::F32(words) => level.run(Part { job, words }),
            Panels::Bf16(words) => level.run(Part { job, words }),
        }
    })
}

struct Job<'a> {
    input: &'a [f32],
    tiling: Tiling,
    weights: &'a Packed,
    sink: Sink<'a>,
    tiles: Range<usize>,
    panels: Range<usize>,
}

struct Part<'a, W> {
    job: Job<'a>,
    words: &'a [W],
}

impl<W: Weight> Kernel for Part<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { job, words } = self;
        let depth = job.weights.depth;
        let size = depth.div_ceil(W::DEPTH) * PANEL;
        let mut results: [Block; MOST_PANELS] = [[[0.0; PANEL]; MOST_ROWS]; MOST_PANELS];
        let mut next = job.panels.start;
        while next < job.panels.end {
            let tallest = job.tiling.tile(job.tiles.start).len();
            // Several panels at once only where a tile is too low to hide latencies.
            let count = if tallest <= 2 { MOST_PANELS } else { 2 };
            let count = count.min(job.panels.end - next);
            let mut panels: [&[W]; MOST_PANELS] = [&[]; MOST_PANELS];
            for (i, panel) in panels.iter_mut().take(count).enumerate() {
                *panel = &words[(next + i) * size..(next + i + 1) * size];
            }
            for tile in job.tiles.clone() {
                let rows = job.tiling.tile(tile);
                let input = &job.input[rows.start * depth..rows.end * depth];
                multiply(s, depth, rows.len(), input, &panels[..count], &mut results);
                job.finish(s, rows, next, &mut results[..count]);
            }
            next += count;
        }
    }
}

impl Job<'_> {
    /// Adds biases and hands on the results of `rows` with the panels from `first` on.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, rows: Range<usize>, first: usize, results: &mut [Block]) {
        if let Some(bias) = &self.weights.bias {
            for (i, block) in results.iter_mut().enumerate() {
                let bias = &bias[(first + i) * PANEL..(first + i + 1) * PANEL];
                for row in block.iter_mut().take(rows.len()) {
                    for (x, b) in row.iter_mut().zip(bias) {
                        *x += b;
                    }
                }
            }
        }
        let columns = self.weights.columns;
        match self.sink {
            Sink::Store(out, stride) => {
                let put = |to: &mut [f32], values: &[f32]| to.copy_from_slice(values);
                self.each_row(out, stride, rows, first, results, put);
            }
            Sink::Add(out, stride) => {
                let put = |to: &mut [f32], values: &[f32]| {
                    for (x, y) in to.iter_mut().zip(values) {
                        *x += y;
                    }
                };
                self.each_row(out, stride, rows, first, results, put);
            }
            Sink::Gated(out, activation) => {
                for (i, pair) in results.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let from = (first / 2 + i) * PANEL;
                    let len = PANEL.min(columns - from);
                    let [gate, up] = pair;
                    for (gate, up) in gate.iter_mut().zip(up.iter()).take(rows.len()) {
                        gated(s, activation, gate, up);
                    }
                    let at = rows.start * columns + from * rows.len();
                    // SAFETY: of tile `rows`, columns `from..from + len`: no other task has both.
                    let to = unsafe { out.part(at..at + len * rows.len()) };
                    for (column, to) in to.chunks_exact_mut(rows.len()).enumerate() {
                        for (row, to) in to.iter_mut().enumerate() {
                            *to = gate[row][column];
                        }
                    }
                }
            }
        }
    }

    /// Calls `put(place, results)` for every row and panel of a row-major matrix.
    #[inline(always)]
    fn each_row(
        &self,
        out: Disjoint<'_, f32>,
        stride: usize,
        rows: Range<usize>,
        first: usize,
        results: &[Block],
        put: impl Fn(&mut [f32], &[f32]),
    ) {
        for (i, block) in results.iter().enumerate() {
            let from = (first + i) * PANEL;
            let len = PANEL.min(self.weights.columns - from);
            for (row, values) in rows.clone().zip(block) {
                let at = row * stride + from;
                // SAFETY: rows and panels of tasks do not overlap, hence neither do these.
                let to = unsafe { out.part(at..at + len) };
                put(to, &values[..len]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
