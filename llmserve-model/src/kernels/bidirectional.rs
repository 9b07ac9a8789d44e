//! Attention of whole texts, in which every token sees every other, before and after it.
//!
//! ```text
//!  queries of a head, tiles of rows   ×   keys, panels of 32 tokens      =   scores
//!  softmax(scores)                    ×   values, panels of 32 channels  =   mixed
//! ```
//!
//! Nothing outlives the pass, so there are no pages: a task takes one head of one text, lays its keys
//! and values out as panels, and multiplies with the tiles of the matrix product. Every number is one
//! chain over channels, or over the text's tokens in their order, so it depends on that text alone.

use std::ops::Range;

use super::activation::exp;
use super::buffer::Buffer;
use super::format::{Format, PIECE};
use super::inputs::Tile;
use super::packed::PANEL;
use super::simd::{LANES, Simd};
use super::tile::{Ahead, Block, F32, MOST_PANELS, MOST_ROWS, multiply};
use super::tiling::Tiling;
use super::{Kernel, Level};
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// Queries of a task: more, and the tasks of a long text would not come out even.
const QUERIES: usize = 128;

// A panel of scores is a piece of the rows that the values are multiplied with.
const _: () = assert!(PIECE == PANEL);

/// How many heads there are, and how wide one is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadShape {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl HeadShape {
    /// Numbers of all heads' queries, or keys, or values, of one token.
    fn width(self) -> usize {
        self.heads * self.head_dim
    }
}

/// What each thread lays its keys, values, queries and scores out in.
#[derive(Debug)]
pub(crate) struct Scratch {
    words: Buffer<u32>,
    layout: Layout,
}

/// Words of each part.
#[derive(Clone, Copy, Debug)]
struct Layout {
    keys: usize,
    values: usize,
    queries: usize,
    scores: usize,
}

impl Layout {
    fn new(head_dim: usize, longest: usize) -> Option<Self> {
        let panels = |columns: usize, depth: usize| {
            columns.checked_next_multiple_of(PANEL)?.checked_mul(depth)
        };
        let tile = |depth: usize| MOST_ROWS.checked_mul(depth.checked_next_multiple_of(PIECE)?);
        Some(Self {
            keys: panels(longest, head_dim)?,
            values: panels(head_dim, longest)?,
            queries: tile(head_dim)?,
            scores: tile(longest)?,
        })
    }

    fn total(self) -> Option<usize> {
        self.keys
            .checked_add(self.values)?
            .checked_add(self.queries)?
            .checked_add(self.scores)
    }
}

impl Scratch {
    /// For texts of at most `longest` tokens; none if there is no memory.
    pub(crate) fn try_new(shape: HeadShape, longest: usize, threads: usize) -> Option<Self> {
        let layout = Layout::new(shape.head_dim, longest)?;
        Some(Self {
            words: Buffer::try_zeroed(layout.total()?.checked_mul(threads)?)?,
            layout,
        })
    }
}

/// Mixes the values of each of `texts`, which are ranges of rows of `qkv` that do not overlap: a row
/// has the queries of all heads, then their keys, then their values. Row `i` of `out` is what row `i`
/// takes in, all heads side by side.
pub(crate) fn attend_texts(
    team: &mut ThreadTeam,
    level: Level,
    shape: HeadShape,
    texts: &[Range<usize>],
    qkv: &[f32],
    scratch: &mut Scratch,
    out: &mut [f32],
) -> Result<(), TaskPanicked> {
    let parts: Vec<(Range<usize>, Range<usize>)> = texts
        .iter()
        .flat_map(|text| {
            let starts = text.clone().step_by(QUERIES);
            starts.map(|start| (text.clone(), start..text.end.min(start + QUERIES)))
        })
        .collect();
    let layout = scratch.layout;
    let each = layout.total().unwrap_or(0);
    let words = Disjoint::new(&mut scratch.words);
    let out = Disjoint::new(out);
    team.run(parts.len() * shape.heads, |task, worker| {
        let (text, queries) = &parts[task / shape.heads];
        // SAFETY: a worker is one thread at a time, and each has its own part.
        let words = unsafe { words.part(worker * each..(worker + 1) * each) };
        let (keys, words) = words.split_at_mut(layout.keys);
        let (values, words) = words.split_at_mut(layout.values);
        let (tile, scores) = words.split_at_mut(layout.queries);
        level.run(Head {
            shape,
            head: task % shape.heads,
            text: text.clone(),
            queries: queries.clone(),
            qkv,
            keys,
            values,
            tile,
            scores,
            out,
        });
    })
}

/// Some queries of one head of one text.
struct Head<'a> {
    shape: HeadShape,
    head: usize,
    text: Range<usize>,
    queries: Range<usize>,
    qkv: &'a [f32],
    keys: &'a mut [u32],
    values: &'a mut [u32],
    tile: &'a mut [u32],
    scores: &'a mut [u32],
    out: Disjoint<'a, f32>,
}

/// Which third of a row.
#[derive(Clone, Copy)]
enum Third {
    Query,
    Key,
    Value,
}

impl Kernel for Head<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.lay_out_keys();
        self.lay_out_values();
        let mut results = [[[0.0; PANEL]; MOST_ROWS]; MOST_PANELS];
        let tiling = Tiling::new(self.queries.len(), S::ROWS);
        for tile in 0..tiling.tiles() {
            let rows = tiling.tile(tile);
            let rows = self.queries.start + rows.start..self.queries.start + rows.end;
            self.lay_out_queries(&rows);
            self.score(s, rows.len(), &mut results);
            let mut inverses = [0.0; MOST_ROWS];
            for (row, inverse) in inverses.iter_mut().enumerate().take(rows.len()) {
                *inverse = 1.0 / self.softmax(s, row, rows.len());
            }
            self.mix(s, &rows, &inverses, &mut results);
        }
    }
}

impl Head<'_> {
    /// One token's part of this head.
    #[inline(always)]
    fn numbers(&self, token: usize, third: Third) -> &[f32] {
        let HeadShape { head_dim, .. } = self.shape;
        let width = self.shape.width();
        let from = (3 * token + third as usize) * width + self.head * head_dim;
        &self.qkv[from..from + head_dim]
    }

    /// Channel by channel, 32 tokens side by side; zeros beyond the last.
    #[inline(always)]
    fn lay_out_keys(&mut self) {
        let (head_dim, tokens) = (self.shape.head_dim, self.text.len());
        let keys = std::mem::take(&mut self.keys);
        let panels = keys.chunks_exact_mut(head_dim * PANEL);
        for (panel, words) in panels.enumerate().take(tokens.div_ceil(PANEL)) {
            let first = panel * PANEL;
            let len = PANEL.min(tokens - first);
            if len < PANEL {
                words.fill(0);
            }
            for column in 0..len {
                let numbers = self.numbers(self.text.start + first + column, Third::Key);
                for (word, x) in words.as_chunks_mut::<PANEL>().0.iter_mut().zip(numbers) {
                    word[column] = x.to_bits();
                }
            }
        }
        self.keys = keys;
    }

    /// Token by token, 32 channels side by side; zeros beyond the last.
    #[inline(always)]
    fn lay_out_values(&mut self) {
        let (head_dim, tokens) = (self.shape.head_dim, self.text.len());
        let values = std::mem::take(&mut self.values);
        for token in 0..tokens {
            let numbers = self.numbers(self.text.start + token, Third::Value);
            for panel in 0..head_dim.div_ceil(PANEL) {
                let numbers = &numbers[panel * PANEL..head_dim.min((panel + 1) * PANEL)];
                let at = (panel * tokens + token) * PANEL;
                let words = &mut values[at..at + PANEL];
                for (word, x) in words.iter_mut().zip(numbers) {
                    *word = x.to_bits();
                }
                words[numbers.len()..].fill(0);
            }
        }
        self.values = values;
    }

    /// The rows of a tile, by pieces, scaled so that scores need not be.
    #[inline(always)]
    fn lay_out_queries(&mut self, rows: &Range<usize>) {
        let scale = 1.0 / (self.shape.head_dim as f32).sqrt();
        let tile = std::mem::take(&mut self.tile);
        for (row, token) in rows.clone().enumerate() {
            let numbers = self.numbers(token, Third::Query);
            for (piece, numbers) in numbers.chunks(PIECE).enumerate() {
                let at = (piece * rows.len() + row) * PIECE;
                for (word, x) in tile[at..at + numbers.len()].iter_mut().zip(numbers) {
                    *word = (x * scale).to_bits();
                }
            }
        }
        self.tile = tile;
    }

    /// Queries times keys, left as the rows that values are multiplied with.
    #[inline(always)]
    fn score<S: Simd>(&mut self, s: S, rows: usize, results: &mut [Block; MOST_PANELS]) {
        let head_dim = self.shape.head_dim;
        let size = head_dim * PANEL;
        let panels = self.text.len().div_ceil(PANEL);
        let input = tile(rows, &self.tile[..rows * Format::F32.row_words(head_dim)]);
        for first in (0..panels).step_by(MOST_PANELS) {
            let count = MOST_PANELS.min(panels - first);
            let mut keys: [&[u32]; MOST_PANELS] = [&[]; MOST_PANELS];
            for (i, keys) in keys.iter_mut().take(count).enumerate() {
                *keys = &self.keys[(first + i) * size..(first + i + 1) * size];
            }
            let keys = &keys[..count];
            multiply::<S, F32>(s, head_dim, input, keys, Ahead::Nothing, results);
            for (i, block) in results.iter().enumerate().take(count) {
                let at = (first + i) * rows * PIECE;
                let pieces = self.scores[at..at + rows * PIECE].as_chunks_mut::<PIECE>();
                for (piece, scores) in pieces.0.iter_mut().zip(block) {
                    *piece = scores.map(f32::to_bits);
                }
            }
        }
    }

    /// `exp(score - largest)` of a row of the tile, in place, and the sum of all.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, row: usize, rows: usize) -> f32 {
        let tokens = self.text.len();
        let at = |piece: usize| (piece * rows + row) * PIECE;
        let pieces = tokens.div_ceil(PIECE);
        // Beyond the last token there is nothing to attend to.
        let last = at(pieces - 1);
        let beyond = &mut self.scores[last + (tokens - 1) % PIECE + 1..last + PIECE];
        beyond.fill(f32::NEG_INFINITY.to_bits());
        let mut largest = s.splat(f32::NEG_INFINITY);
        for piece in 0..pieces {
            for x in self.scores[at(piece)..at(piece) + PIECE]
                .as_chunks::<LANES>()
                .0
            {
                largest = s.max(s.float(s.words(x)), largest);
            }
        }
        let largest = s
            .lanes(largest)
            .into_iter()
            .fold(f32::NEG_INFINITY, f32::max);
        let largest = s.splat(largest);
        // What lies beyond adds less than half a unit in the last place of the largest's one.
        let mut sum = s.splat(0.0);
        for piece in 0..pieces {
            let words = &mut self.scores[at(piece)..at(piece) + PIECE];
            for x in words.as_chunks_mut::<LANES>().0 {
                let e = exp(s, s.sub(s.float(s.words(x)), largest));
                sum = s.add(sum, e);
                *x = s.lanes(e).map(f32::to_bits);
            }
        }
        s.sum(sum)
    }

    /// Shares of tokens times their values.
    #[inline(always)]
    fn mix<S: Simd>(
        &mut self,
        s: S,
        rows: &Range<usize>,
        inverses: &[f32; MOST_ROWS],
        results: &mut [Block; MOST_PANELS],
    ) {
        let (head_dim, tokens) = (self.shape.head_dim, self.text.len());
        let (width, size) = (self.shape.width(), tokens * PANEL);
        let words = rows.len() * Format::F32.row_words(tokens);
        let input = tile(rows.len(), &self.scores[..words]);
        for panel in 0..head_dim.div_ceil(PANEL) {
            let values = &self.values[panel * size..(panel + 1) * size];
            multiply::<S, F32>(s, tokens, input, &[values], Ahead::Nothing, results);
            let channels = panel * PANEL..head_dim.min((panel + 1) * PANEL);
            for ((token, mixed), inverse) in rows.clone().zip(&results[0]).zip(inverses) {
                let at = token * width + self.head * head_dim;
                // SAFETY: each task has its own tokens or its own head.
                let to = unsafe { self.out.part(at + channels.start..at + channels.end) };
                for (to, x) in to.iter_mut().zip(mixed) {
                    *to = x * inverse;
                }
            }
        }
    }
}

/// Rows of f32, which have neither scales nor offsets.
fn tile(rows: usize, words: &[u32]) -> Tile<'_> {
    Tile {
        rows,
        words,
        scales: &[],
        offsets: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;

    fn noise(len: usize) -> Vec<f32> {
        let mut state = 77u32;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// By the book, in double precision.
    fn exact(shape: HeadShape, text: &Range<usize>, qkv: &[f32], token: usize) -> Vec<f64> {
        let width = shape.width();
        let at = |token: usize, third: usize, channel: usize| {
            f64::from(qkv[(3 * token + third) * width + channel])
        };
        let mut out = vec![0.0; width];
        for head in 0..shape.heads {
            let channels = head * shape.head_dim..(head + 1) * shape.head_dim;
            let scores: Vec<f64> = text
                .clone()
                .map(|other| {
                    let dot: f64 = channels
                        .clone()
                        .map(|c| at(token, 0, c) * at(other, 1, c))
                        .sum();
                    (dot / (shape.head_dim as f64).sqrt()).exp()
                })
                .collect();
            let sum: f64 = scores.iter().sum();
            for (score, other) in scores.iter().zip(text.clone()) {
                for channel in channels.clone() {
                    out[channel] += score / sum * at(other, 2, channel);
                }
            }
        }
        out
    }

    fn attend(
        level: Level,
        threads: usize,
        shape: HeadShape,
        texts: &[Range<usize>],
        qkv: &[f32],
    ) -> Vec<f32> {
        let mut team = ThreadTeam::new(threads).unwrap();
        let longest = texts.iter().map(ExactSizeIterator::len).max().unwrap();
        let mut scratch = Scratch::try_new(shape, longest, threads).unwrap();
        let mut out = vec![f32::NAN; qkv.len() / 3];
        attend_texts(&mut team, level, shape, texts, qkv, &mut scratch, &mut out).unwrap();
        out
    }

    #[test]
    fn matches_its_definition_whatever_the_shapes() {
        for (heads, head_dim) in [(2, 32), (3, 5), (1, 64), (2, 40)] {
            let shape = HeadShape { heads, head_dim };
            let texts = [0..1, 1..3, 3..35, 35..68, 68..281];
            let qkv: Vec<f32> = noise(281 * 3 * shape.width())
                .iter()
                .map(|x| x * 3.0)
                .collect();
            for level in levels() {
                let out = attend(level, 2, shape, &texts, &qkv);
                for text in &texts {
                    for token in text.clone() {
                        let got = &out[token * shape.width()..(token + 1) * shape.width()];
                        let want = exact(shape, text, &qkv, token);
                        for (got, want) in got.iter().zip(want) {
                            assert!((f64::from(*got) - want).abs() < 2e-5, "{got} {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn scores_far_below_zero_still_share_out_one() {
        let shape = HeadShape {
            heads: 1,
            head_dim: 4,
        };
        // Every score is -400: its exponential is nothing, and each token still counts a third.
        let row = |value: f32| {
            let mut row = vec![-20.0; 4];
            row.extend([10.0; 4]);
            row.extend([value; 4]);
            row
        };
        let qkv = [row(1.0), row(2.0), row(6.0)].concat();
        for level in levels() {
            for x in attend(level, 1, shape, std::slice::from_ref(&(0..3)), &qkv) {
                assert!((x - 3.0).abs() < 1e-6, "{x}");
            }
        }
    }

    #[test]
    fn company_threads_and_what_scratch_held_leave_no_trace() {
        let shape = HeadShape {
            heads: 3,
            head_dim: 20,
        };
        let qkv = noise(400 * 3 * shape.width());
        let texts = [0..200, 200..207, 207..399, 399..400];
        for level in levels() {
            let together = attend(level, 2, shape, &texts, &qkv);
            for text in &texts {
                let alone = &qkv[3 * text.start * shape.width()..3 * text.end * shape.width()];
                let alone = attend(
                    level,
                    1,
                    shape,
                    std::slice::from_ref(&(0..text.len())),
                    alone,
                );
                let with = &together[text.start * shape.width()..text.end * shape.width()];
                assert!(
                    alone
                        .iter()
                        .zip(with)
                        .all(|(a, b)| a.to_bits() == b.to_bits())
                );
            }
        }
    }
}
