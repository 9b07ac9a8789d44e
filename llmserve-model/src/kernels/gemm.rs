//! The matrix product of a step's rows with packed weights, and what is done with each result.

use std::cell::RefCell;
use std::ops::Range;

use super::activation::{activated, gated};
use super::format::Format;
use super::inputs::Rows;
use super::packed::{PANEL, Packed};
use super::simd::{LANES, Simd};
use super::tile::{Ahead, Bf16, Block, F32, Int4, Int8, MOST_PANELS, MOST_ROWS, Product, multiply};
use super::{Kernel, Level};
use crate::config::Activation;
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// Where results go: a row-major matrix.
pub(crate) struct Output<'a> {
    pub(crate) out: &'a mut [f32],
    /// Numbers from row to row.
    pub(crate) stride: usize,
    pub(crate) put: Put,
}

/// What becomes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is stored.
    Store,
    /// It is added to what is there: the residual stream.
    Add,
    /// `activation(result)` is stored.
    Activated(Activation),
    /// `activation(gate) · up` is stored, of weights that were packed in pairs.
    Gated(Activation),
}

/// Bytes of rows that are multiplied with panel after panel before the next rows are turned to:
/// they stay in the second-level cache together with a panel.
const ROW_BLOCK: usize = 1 << 20;

/// Least rows of such a block: so many share one pass over the weights.
const LEAST_BLOCK: usize = 72;

/// Tasks for each thread, so that a late one costs little.
const TASKS_A_THREAD: usize = 8;

/// Bytes of weights, times rows, that are not worth waking anybody: the caller is done with them
/// before another thread has begun.
const ALONE: usize = 64 << 10;

/// Multiplies `rows` with `weights`.
///
/// The result of a row depends on nothing but the row and the weights: tiles, panels and tasks
/// decide only who computes it when.
pub(crate) fn gemm(
    team: &mut ThreadTeam,
    level: Level,
    rows: Rows<'_>,
    weights: &Packed,
    output: Output<'_>,
) -> Result<(), TaskPanicked> {
    debug_assert!(rows.format == weights.format && rows.depth == weights.depth);
    let tiling = rows.tiling;
    if tiling.rows() == 0 || weights.panels == 0 {
        return Ok(());
    }
    let block = (ROW_BLOCK / (4 * rows.format.words(rows.depth)).max(1)).max(LEAST_BLOCK);
    let blocks = tiling.rows().div_ceil(block).min(tiling.tiles());
    let tiles = tiling.tiles().div_ceil(blocks);
    let blocks = tiling.tiles().div_ceil(tiles);

    // Whole quadruples or pairs where there are plenty; gates and what they gate are never parted,
    // and one or two rows take several panels at once.
    let wanted = (team.threads() * TASKS_A_THREAD).div_ceil(blocks).max(1);
    let little = weights.bytes() * tiling.rows() <= ALONE;
    let group = match weights.panels / wanted {
        _ if little => weights.panels,
        plenty @ MOST_PANELS.. => plenty / MOST_PANELS * MOST_PANELS,
        2.. => 2,
        _ if matches!(output.put, Put::Gated(_)) || tiling.rows() <= 2 => 2,
        _ => 1,
    };
    let groups = weights.panels.div_ceil(group);
    // Threads that take turns come by so many tasks further on.
    let turn = team.threads();

    let out = Disjoint::new(output.out);
    team.run(blocks * groups, |task, _| {
        let (block, part) = (task / groups, task % groups);
        let job = Job {
            rows,
            weights,
            out,
            stride: output.stride,
            put: output.put,
            tiles: block * tiles..((block + 1) * tiles).min(tiling.tiles()),
            panels: part * group..((part + 1) * group).min(weights.panels),
            following: (task + turn < blocks * groups).then(|| (task + turn) % groups * group),
        };
        RESULTS.with_borrow_mut(|results| match weights.format {
            Format::F32 => level.run(Part(job, F32, results)),
            Format::Bf16 => level.run(Part(job, Bf16, results)),
            Format::Int8 => level.run(Part(job, Int8, results)),
            Format::Int4 => level.run(Part(job, Int4, results)),
        });
    })
}

thread_local! {
    /// Where a tile leaves its results. Kept: zeroing it anew takes as long as a small task.
    static RESULTS: RefCell<[Block; MOST_PANELS]> =
        const { RefCell::new([[[0.0; PANEL]; MOST_ROWS]; MOST_PANELS]) };
}

struct Job<'a> {
    rows: Rows<'a>,
    weights: &'a Packed,
    out: Disjoint<'a, f32>,
    stride: usize,
    put: Put,
    tiles: Range<usize>,
    panels: Range<usize>,
    /// The first panel of the task that this thread is likely to come by next.
    following: Option<usize>,
}

/// A job, its arithmetic, and where its tiles leave their results.
struct Part<'a, P>(Job<'a>, P, &'a mut [Block; MOST_PANELS]);

impl<P: Product> Kernel for Part<'_, P> {
    const BYTES: bool = matches!(P::FORMAT, Format::Int8 | Format::Int4);
    const BF16: bool = matches!(P::FORMAT, Format::Bf16);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let job = self.0;
        let (depth, results) = (job.weights.depth, self.2);
        let tallest = job.rows.tiling.tile(job.tiles.start).len();
        // Several panels at once only where a tile is too low to hide latencies.
        let most = if tallest <= 2 { MOST_PANELS } else { 2 };
        let mut next = job.panels.start;
        while next < job.panels.end {
            let count = most.min(job.panels.end - next);
            let mut panels: [&[u32]; MOST_PANELS] = [&[]; MOST_PANELS];
            for (i, panel) in panels.iter_mut().take(count).enumerate() {
                *panel = job.weights.panel(next + i);
            }
            for tile in job.tiles.clone() {
                let input = job.rows.tile(tile);
                let ahead = job.ahead(tile, next, count);
                multiply::<S, P>(s, depth, input, &panels[..count], ahead, results);
                let rows = job.rows.tiling.tile(tile);
                job.finish(s, rows, next, &mut results[..count]);
            }
            next += count;
        }
    }
}

impl Job<'_> {
    /// What a tile asks for while it is multiplied with the panels from `next` on. The first tile
    /// finds the panels in memory, later ones in a cache, with time to fetch those that come next.
    #[inline(always)]
    fn ahead(&self, tile: usize, next: usize, count: usize) -> Ahead {
        let (tile, tiles) = (tile - self.tiles.start, self.tiles.len());
        if tile == 0 {
            let fetched = tiles > 2 && next > self.panels.start;
            return if fetched {
                Ahead::Nothing
            } else {
                Ahead::Stream
            };
        }
        let coming = match next + count {
            coming if coming < self.panels.end => Some(coming),
            _ => self.following,
        };
        let Some(coming) = coming.filter(|_| tile <= 2) else {
            return Ahead::Nothing;
        };
        let words = self.weights.format.panel_words(self.weights.depth);
        let lines = (tile - 1) * count * words;
        let from = self.weights.panel(coming).as_ptr();
        Ahead::Lines(from.wrapping_add(lines * LANES))
    }

    /// Applies the scales of columns, adds biases, and hands on the results of `rows` with the
    /// panels from `first` on.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, rows: Range<usize>, first: usize, results: &mut [Block]) {
        for (i, block) in results.iter_mut().enumerate() {
            let block = &mut block[..rows.len()];
            if let Some(scales) = &self.weights.scales {
                let scales = columns(s, scales, first + i);
                for row in block.iter_mut() {
                    for (x, scale) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(scales) {
                        s.store(s.mul(s.load(x), scale), x);
                    }
                }
            }
            if let Some(bias) = &self.weights.bias {
                let bias = columns(s, bias, first + i);
                for row in block.iter_mut() {
                    for (x, bias) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(bias) {
                        s.store(s.add(s.load(x), bias), x);
                    }
                }
            }
        }
        match self.put {
            Put::Store => self.hand_on::<S, false>(s, rows, first, results),
            Put::Add => self.hand_on::<S, true>(s, rows, first, results),
            Put::Activated(activation) => {
                for block in results.iter_mut() {
                    for row in &mut block[..rows.len()] {
                        activated(s, activation, row);
                    }
                }
                self.hand_on::<S, false>(s, rows, first, results);
            }
            Put::Gated(activation) => {
                for (i, pair) in results.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let [gate, up] = pair;
                    for (gate, up) in gate.iter_mut().zip(up.iter()).take(rows.len()) {
                        gated(s, activation, gate, up);
                    }
                    let gate = std::slice::from_ref(gate);
                    self.hand_on::<S, false>(s, rows.clone(), first / 2 + i, gate);
                }
            }
        }
    }

    /// Stores the results of every row and panel, or adds them to what is there.
    #[inline(always)]
    fn hand_on<S: Simd, const ADD: bool>(
        &self,
        s: S,
        rows: Range<usize>,
        first: usize,
        results: &[Block],
    ) {
        for (i, block) in results.iter().enumerate() {
            let from = (first + i) * PANEL;
            let len = PANEL.min(self.weights.columns - from);
            for (row, values) in rows.clone().zip(block) {
                let at = row * self.stride + from;
                // SAFETY: rows and panels of tasks do not overlap, hence neither do these.
                let to = unsafe { self.out.part(at..at + len) };
                let (whole, rest) = to.as_chunks_mut::<LANES>();
                let (vectors, _) = values.as_chunks::<LANES>();
                for (to, values) in whole.iter_mut().zip(vectors) {
                    let mut y = s.load(values);
                    if ADD {
                        y = s.add(s.load(to), y);
                    }
                    s.store(y, to);
                }
                for (to, y) in rest.iter_mut().zip(&values[len - len % LANES..]) {
                    *to = if ADD { *to + y } else { *y };
                }
            }
        }
    }
}

/// The numbers of a panel's columns.
#[inline(always)]
fn columns<S: Simd>(s: S, all: &[f32], panel: usize) -> [S::V; 2] {
    let (vectors, _) = all[panel * PANEL..(panel + 1) * PANEL].as_chunks::<LANES>();
    [s.load(&vectors[0]), s.load(&vectors[1])]
}

#[cfg(test)]
mod tests;
