//! A step's rows as a matrix product reads them: words of the weights' format, tile by tile.
//!
//! ```text
//!  rows of f32 ─ norm ─ · factor of each channel ─► words, [piece of 32 words][row of the tile][word]
//!
//!  f32    1 number a word
//!  bf16   2 numbers a word
//!  int8   4 numbers a word;  of each row and group of channels: scale, and offset
//!  int4   (the activations as for int8)
//! ```
//!
//! Weights of integer formats are stored unsigned, as dot products of bytes want one operand, so
//! each sum begins at its offset: minus the weights' zero times the sum of the row's numbers.

use super::buffer::Buffer;
use super::format::{Format, PIECE};
use super::packed::Packed;
use super::simd::{LANES, MAGIC, Simd};
use super::tiling::Tiling;
use super::{Kernel, Level};
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// A layer's normalisation (RMSNorm: Zhang and Sennrich, 2019): `x / √(mean(x²) + eps)`, times a
/// weight that the caller has among the factors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RmsNorm {
    pub(crate) eps: f32,
}

/// Memory for the rows of one product at a time.
#[derive(Debug)]
pub(crate) struct Inputs {
    words: Buffer<u32>,
    scales: Buffer<f32>,
    offsets: Buffer<u32>,
}

/// What a product reads.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) format: Format,
    pub(crate) depth: usize,
    pub(crate) tiling: Tiling,
    words: &'a [u32],
    scales: &'a [f32],
    offsets: &'a [u32],
}

/// The rows of one tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) rows: usize,
    pub(super) words: &'a [u32],
    /// `[group][row]`
    pub(super) scales: &'a [f32],
    /// `[group][row]`
    pub(super) offsets: &'a [u32],
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(super) fn tile(&self, tile: usize) -> Tile<'a> {
        let rows = self.tiling.tile(tile);
        let (words, groups) = (
            self.format.row_words(self.depth),
            self.format.groups(self.depth),
        );
        Tile {
            rows: rows.len(),
            words: &self.words[rows.start * words..rows.end * words],
            scales: &self.scales[rows.start * groups..rows.end * groups],
            offsets: &self.offsets[rows.start * groups..rows.end * groups],
        }
    }
}

/// Where the rows come from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// Row-major, as wide as the product is deep.
    pub(crate) data: &'a [f32],
    pub(crate) norm: Option<RmsNorm>,
}

impl Inputs {
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.words) + size_of_val(&*self.scales) + size_of_val(&*self.offsets)
    }

    /// Room for any of the `shapes`: a number of rows, and how deep they are.
    pub(crate) fn try_new(shapes: &[(usize, usize)], format: Format) -> Option<Self> {
        let (mut words, mut groups) = (0, 0);
        for &(rows, depth) in shapes {
            words = rows.checked_mul(format.row_words(depth))?.max(words);
            groups = rows.checked_mul(format.groups(depth))?.max(groups);
        }
        Some(Self {
            words: Buffer::try_zeroed(words)?,
            scales: Buffer::try_zeroed(groups)?,
            offsets: Buffer::try_zeroed(groups)?,
        })
    }

    /// Converts rows, as wide as `weights` is deep, for the product with it.
    pub(crate) fn fill(
        &mut self,
        team: &mut ThreadTeam,
        level: Level,
        weights: &Packed,
        tiling: Tiling,
        source: Source<'_>,
    ) -> Result<Rows<'_>, TaskPanicked> {
        let (format, depth) = (weights.format, weights.depth);
        let (words, groups) = (format.row_words(depth), format.groups(depth));
        let shared = (
            Disjoint::new(&mut self.words),
            Disjoint::new(&mut self.scales),
            Disjoint::new(&mut self.offsets),
        );
        team.run(tiling.tiles(), |tile, _| {
            let rows = tiling.tile(tile);
            // SAFETY: each task has its own tile.
            let (words, scales, offsets) = unsafe {
                (
                    shared.0.part(rows.start * words..rows.end * words),
                    shared.1.part(rows.start * groups..rows.end * groups),
                    shared.2.part(rows.start * groups..rows.end * groups),
                )
            };
            level.run(Convert {
                source,
                factors: weights.factors.as_deref().unwrap_or(&[]),
                format,
                depth,
                first: rows.start,
                rows: rows.len(),
                words,
                scales,
                offsets,
            });
        })?;
        Ok(Rows {
            format,
            depth,
            tiling,
            words: &self.words,
            scales: &self.scales,
            offsets: &self.offsets,
        })
    }
}

/// The rows of one tile, to be converted.
struct Convert<'a> {
    source: Source<'a>,
    factors: &'a [f32],
    format: Format,
    depth: usize,
    first: usize,
    rows: usize,
    words: &'a mut [u32],
    scales: &'a mut [f32],
    offsets: &'a mut [u32],
}

impl Kernel for Convert<'_> {
    const BF16: bool = true;

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for row in 0..self.rows {
            let index = self.first + row;
            let input = &self.source.data[index * self.depth..(index + 1) * self.depth];
            let scale = match self.source.norm {
                Some(norm) => inverse_rms(s, input, norm.eps),
                None => 1.0,
            };
            let input = Input {
                row: input,
                factors: self.factors,
                scale: s.splat(scale),
            };
            match self.format {
                Format::F32 => {
                    for chunk in 0..self.depth.div_ceil(LANES) {
                        let numbers = s.lanes(input.chunk(s, chunk)).map(f32::to_bits);
                        self.put(row, chunk, &numbers);
                    }
                }
                Format::Bf16 => {
                    for chunk in 0..self.depth.div_ceil(LANES) {
                        let pairs = s.pairs(input.chunk(s, chunk));
                        self.put(row, chunk, &pairs);
                    }
                }
                Format::Int8 | Format::Int4 => self.quantise(s, row, input),
            }
        }
    }
}

impl Convert<'_> {
    /// Writes the words of sixteen channels. `N` divides a piece, so they lie in one.
    #[inline(always)]
    fn put<const N: usize>(&mut self, row: usize, chunk: usize, numbers: &[u32; N]) {
        let word = chunk * N;
        let at = (word / PIECE * self.rows + row) * PIECE + word % PIECE;
        if let Some(to) = self.words.get_mut(at..at + N) {
            to.copy_from_slice(numbers);
        }
    }

    /// Symmetric quantisation to 8 bits, group by group: `x ≈ q · scale`, `|q| <= 127`.
    #[inline(always)]
    fn quantise<S: Simd>(&mut self, s: S, row: usize, input: Input<'_, S>) {
        let chunks = self.depth.div_ceil(LANES);
        let each = self.format.group() / LANES;
        let magic = s.splat(MAGIC);
        for group in 0..chunks.div_ceil(each) {
            let range = group * each..((group + 1) * each).min(chunks);
            let mut peak = s.splat(0.0);
            // Times zero: nothing, but NaN of what is not finite, which must not be lost.
            let mut broken = s.splat(0.0);
            for chunk in range.clone() {
                let x = input.chunk(s, chunk);
                peak = s.max(peak, s.max(x, s.sub(s.splat(0.0), x)));
                broken = s.fma(x, s.splat(0.0), broken);
            }
            let peak = s.lanes(peak).into_iter().fold(0.0, f32::max);
            let inverse = s.splat(if peak > SMALLEST { 127.0 / peak } else { 0.0 });
            let mut sum = s.splat(0.0);
            for chunk in range {
                // Not fused: every level rounds alike.
                let t = s.add(s.mul(input.chunk(s, chunk), inverse), magic);
                // Small whole numbers: exact in whatever order.
                sum = s.add(sum, s.sub(t, magic));
                let bytes = s.low_bytes(t);
                self.put(row, chunk, &bytes);
            }
            let sum = s.sum(sum) as i32;
            let at = group * self.rows + row;
            self.scales[at] = peak / 127.0 + s.sum(broken);
            self.offsets[at] = (-self.format.zero() * sum).cast_unsigned();
        }
    }
}

/// Groups whose peak is not above this are all zeros: `127 / peak` would overflow.
const SMALLEST: f32 = 1e-36;

/// A row, the factors of its channels, and one of all.
#[derive(Clone, Copy)]
struct Input<'a, S: Simd> {
    row: &'a [f32],
    /// As many, or none.
    factors: &'a [f32],
    scale: S::V,
}

impl<S: Simd> Input<'_, S> {
    /// Sixteen channels, zeros beyond the last.
    #[inline(always)]
    fn chunk(self, s: S, chunk: usize) -> S::V {
        let at = chunk * LANES;
        let whole = self.row.get(at..at + LANES).and_then(|x| x.first_chunk());
        let Some(x) = whole else {
            let mut last = [0.0; LANES];
            let rest = self.row.get(at..).unwrap_or(&[]);
            last[..rest.len()].copy_from_slice(rest);
            let mut factors = [1.0; LANES];
            let rest = self.factors.get(at..).unwrap_or(&[]);
            factors[..rest.len()].copy_from_slice(rest);
            return s.mul(s.mul(s.load(&last), self.scale), s.load(&factors));
        };
        let x = s.mul(s.load(x), self.scale);
        match self
            .factors
            .get(at..at + LANES)
            .and_then(|f| f.first_chunk())
        {
            Some(factors) => s.mul(x, s.load(factors)),
            None => x,
        }
    }
}

/// `1 / √(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms<S: Simd>(s: S, row: &[f32], eps: f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut squares = s.splat(0.0);
    for chunk in chunks {
        let x = s.load(chunk);
        squares = s.fma(x, x, squares);
    }
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let x = s.load(&last);
    squares = s.fma(x, x, squares);
    let mean = s.sum(squares) / row.len() as f32;
    1.0 / (mean + eps).sqrt()
}

#[cfg(test)]
mod tests;
