//! A panel's numbers: read, checked, scaled, rounded and laid out.
//!
//! Plain loops over arrays, compiled with each level's instructions: nothing in them depends on how
//! wide a vector is or on what it fuses, so every level writes the same words.

use std::ops::Range;

use super::{INT4_BLOCK, INT4_SCALES, PANEL};
use crate::kernels::Kernel;
use crate::kernels::format::Format;
use crate::kernels::simd::{MAGIC, Simd};
use crate::weights::TensorView;

/// Numbers converted at a time: a multiple of every format's words and of an int4 group.
pub(super) const CHUNK: usize = 128;

/// One number of each column.
type Lanes = [f32; PANEL];
/// 128 channels of all columns: vectors are columns side by side.
type Piece = [Lanes; CHUNK];

/// A number's bits but its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// What storing does to a number before it can overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    None,
    Bf16,
}

impl Rounding {
    pub(super) fn of(format: Format) -> Self {
        match format {
            Format::Bf16 => Rounding::Bf16,
            _ => Rounding::None,
        }
    }

    pub(super) fn apply(self, x: f32) -> f32 {
        match self {
            Rounding::None => x,
            Rounding::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    /// The least magnitude, as bits, that is not finite once it is stored.
    #[inline(always)]
    const fn limit(self) -> u32 {
        match self {
            Rounding::None => 0x7f80_0000,
            // Halfway from the largest number to the one beyond, and even is up.
            Rounding::Bf16 => 0x7f7f_8000,
        }
    }
}

/// The largest magnitude, as bits.
#[inline(always)]
fn magnitude(numbers: &[f32]) -> u32 {
    let bits = numbers.iter().map(|x| x.to_bits() & MAGNITUDE);
    bits.fold(0, u32::max)
}

/// Whether a part of a tensor is finite.
pub(super) struct Finite<'a> {
    pub(super) view: &'a TensorView<'a>,
    pub(super) range: Range<usize>,
    pub(super) sound: &'a mut bool,
}

impl Kernel for Finite<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut chunk = [0.0; CHUNK];
        let mut most = 0;
        for begin in self.range.clone().step_by(CHUNK) {
            let chunk = &mut chunk[..CHUNK.min(self.range.end - begin)];
            self.view.read(begin, chunk);
            most = magnitude(chunk).max(most);
        }
        *self.sound = most < Rounding::None.limit();
    }
}

/// The largest magnitude of each channel as a share of its row's largest, over some rows, as bits.
pub(super) struct Peaks<'a> {
    pub(super) weight: &'a TensorView<'a>,
    pub(super) depth: usize,
    pub(super) rows: Range<usize>,
    pub(super) peaks: &'a mut [u32],
}

impl Kernel for Peaks<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut chunk = [0.0; CHUNK];
        for row in self.rows {
            // What is not finite is found, and named, when it is packed.
            let mut peak = 0;
            for begin in (0..self.depth).step_by(CHUNK) {
                let chunk = &mut chunk[..CHUNK.min(self.depth - begin)];
                self.weight.read(row * self.depth + begin, chunk);
                for x in chunk {
                    peak = (x.to_bits() & MAGNITUDE).max(peak);
                }
            }
            let inverse = match f32::from_bits(peak) {
                // Of anything smaller the inverse is not finite.
                peak if peak >= f32::MIN_POSITIVE => 1.0 / peak,
                _ => 0.0,
            };
            for begin in (0..self.depth).step_by(CHUNK) {
                let chunk = &mut chunk[..CHUNK.min(self.depth - begin)];
                self.weight.read(row * self.depth + begin, chunk);
                for (peak, x) in self.peaks[begin..].iter_mut().zip(chunk) {
                    *peak = ((*x * inverse).to_bits() & MAGNITUDE).max(*peak);
                }
            }
        }
    }
}

/// One panel to be packed.
pub(super) struct Panel<'a> {
    pub(super) format: Format,
    pub(super) depth: usize,
    /// For each column a tensor and the row of it; none beyond the matrix.
    pub(super) columns: &'a [Option<(&'a TensorView<'a>, usize)>; PANEL],
    /// What each channel is multiplied with; empty: nothing.
    pub(super) stretch: &'a [f32],
    pub(super) rounding: Rounding,
    pub(super) words: &'a mut [u32],
    /// For bytes: a scale for each column.
    pub(super) scales: Option<&'a mut [f32]>,
    /// Becomes false where a number is not finite.
    pub(super) sound: &'a mut bool,
}

impl Kernel for Panel<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self {
            format,
            depth,
            columns,
            stretch,
            rounding,
            words,
            scales,
            sound,
        } = self;
        let source = Source {
            depth,
            columns,
            stretch,
        };
        let mut inverse = [0.0; PANEL];
        if let Some(scales) = scales {
            let mut row = [0.0; CHUNK];
            for ((lane, scale), inverse) in scales.iter_mut().enumerate().zip(&mut inverse) {
                let mut peak = 0;
                for begin in (0..depth).step_by(CHUNK) {
                    source.row(lane, begin, &mut row);
                    peak = magnitude(&row).max(peak);
                }
                let peak = f32::from_bits(peak);
                *inverse = if peak > 0.0 { 127.0 / peak } else { 0.0 };
                *scale = peak / 127.0;
            }
        }
        let mut piece: Piece = [[0.0; PANEL]; CHUNK];
        let mut most = 0;
        for begin in (0..depth).step_by(CHUNK) {
            most = source.piece(begin, &mut piece).max(most);
            let len = CHUNK.min(depth - begin);
            match format {
                Format::F32 => write(&piece, begin, len, words, |[x]: [f32; 1], _| x.to_bits()),
                Format::Bf16 => write(&piece, begin, len, words, |[x, y]: [f32; 2], _| {
                    (upper_half(x) >> 16) | (upper_half(y) & 0xffff_0000)
                }),
                Format::Int8 => write(&piece, begin, len, words, |x: [f32; 4], column| {
                    // The lowest byte of the rounded number, its sign turned: 128 more.
                    let byte = |x: f32| ((x * inverse[column] + MAGIC).to_bits() & 0xff) ^ 0x80;
                    byte(x[0]) | byte(x[1]) << 8 | byte(x[2]) << 16 | byte(x[3]) << 24
                }),
                Format::Int4 => write_int4(&piece, begin, len, words),
            }
        }
        *sound = most < rounding.limit();
    }
}

/// Where a panel's numbers come from.
struct Source<'a> {
    depth: usize,
    columns: &'a [Option<(&'a TensorView<'a>, usize)>; PANEL],
    stretch: &'a [f32],
}

impl Source<'_> {
    /// Numbers from `begin` on of a column, zeros where there are none, stretched; and the largest
    /// magnitude before that.
    #[inline(always)]
    fn row(&self, lane: usize, begin: usize, row: &mut [f32; CHUNK]) -> u32 {
        let Some((weight, index)) = self.columns[lane] else {
            row.fill(0.0);
            return 0;
        };
        let len = CHUNK.min(self.depth - begin);
        // The length of nearly all, known to the compiler.
        match len {
            CHUNK => weight.read(index * self.depth + begin, row),
            _ => {
                weight.read(index * self.depth + begin, &mut row[..len]);
                row[len..].fill(0.0);
            }
        }
        let most = magnitude(row);
        for (x, stretch) in row.iter_mut().zip(self.stretch.get(begin..).unwrap_or(&[])) {
            *x *= stretch;
        }
        most
    }

    /// All columns from channel `begin` on.
    #[inline(always)]
    fn piece(&self, begin: usize, piece: &mut Piece) -> u32 {
        let mut row = [0.0; CHUNK];
        let mut most = 0;
        for lane in 0..PANEL {
            most = self.row(lane, begin, &mut row).max(most);
            for (lanes, x) in piece.iter_mut().zip(&row) {
                lanes[lane] = *x;
            }
        }
        most
    }
}

/// Writes `len` channels from `begin` on, `N` in a word.
#[inline(always)]
fn write<const N: usize>(
    piece: &Piece,
    begin: usize,
    len: usize,
    words: &mut [u32],
    word: impl Fn([f32; N], usize) -> u32,
) {
    let first = begin / N * PANEL;
    let words = &mut words[first..first + len.div_ceil(N) * PANEL];
    let channels = piece.as_chunks::<N>().0;
    for (words, channels) in words.as_chunks_mut::<PANEL>().0.iter_mut().zip(channels) {
        for (column, to) in words.iter_mut().enumerate() {
            let mut numbers = [0.0; N];
            for (number, lanes) in numbers.iter_mut().zip(channels) {
                *number = lanes[column];
            }
            *to = word(numbers, column);
        }
    }
}

/// The bits of a finite number with its upper half rounded to nearest, ties to even.
#[inline(always)]
fn upper_half(x: f32) -> u32 {
    let bits = x.to_bits();
    // What is not finite is refused, whatever becomes of it here.
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1))
}

#[inline(always)]
fn write_int4(piece: &Piece, begin: usize, len: usize, words: &mut [u32]) {
    const GROUP: usize = Format::Int4.group();
    let first = begin / GROUP * INT4_BLOCK;
    let blocks = &mut words[first..first + len.div_ceil(GROUP) * INT4_BLOCK];
    let blocks = blocks.as_chunks_mut::<INT4_BLOCK>().0;
    for (block, channels) in blocks.iter_mut().zip(piece.as_chunks::<GROUP>().0) {
        let (scale, inverse) = int4_scales(channels);
        let (scales, words) = block.split_at_mut(INT4_SCALES);
        for (column, word) in scales.iter_mut().enumerate() {
            let (low, high) = (scale[column], scale[column + INT4_SCALES]);
            *word = low.to_bits() >> 16 | (high.to_bits() & 0xffff_0000);
        }
        let words = words.as_chunks_mut::<PANEL>().0;
        for (words, channels) in words.iter_mut().zip(channels.as_chunks::<8>().0) {
            for (column, word) in words.iter_mut().enumerate() {
                let nibble = |k: usize| {
                    let number = rounded(channels[k][column] * inverse[column]);
                    number.to_bits().wrapping_add(8) & 15
                };
                // Byte `i` holds number `i` in its lower and number `i + 4` in its upper half.
                let byte = |i: usize| (nibble(i) | nibble(i + 4) << 4) << (8 * i);
                *word = byte(0) | byte(1) | byte(2) | byte(3);
            }
        }
    }
}

/// Scales that are tried for each group.
const CANDIDATES: usize = 17;

/// For each column the scale, of those near the one that the largest number asks for, with the
/// least square error, and its inverse. Scales are bf16 numbers.
#[inline(always)]
fn int4_scales(channels: &[Lanes; 32]) -> (Lanes, Lanes) {
    let mut peaks = [0f32; PANEL];
    for lanes in channels {
        for (peak, &x) in peaks.iter_mut().zip(lanes) {
            *peak = if x.abs() > peak.abs() { x } else { *peak };
        }
    }
    let mut least = [f32::INFINITY; PANEL];
    let mut best: (Lanes, Lanes) = ([0.0; PANEL], [0.0; PANEL]);
    for step in 0..CANDIDATES {
        // The largest number becomes -8 there and thereabouts, whichever its sign.
        let divisor = -(7.0 + 1.6 * step as f32 / (CANDIDATES - 1) as f32);
        let mut scales = [0f32; PANEL];
        let mut inverses = [0f32; PANEL];
        let mut errors = [0f32; PANEL];
        for column in 0..PANEL {
            let scale = f32::from_bits(upper_half(peaks[column] / divisor) & 0xffff_0000);
            let inverse = 1.0 / scale;
            let usable = inverse.is_finite() && inverse != 0.0;
            scales[column] = scale;
            inverses[column] = if usable { inverse } else { 0.0 };
            errors[column] = if usable { 0.0 } else { f32::INFINITY };
        }
        let (first, second) = channels.split_at(16);
        for (first, second) in first.iter().zip(second) {
            for column in 0..PANEL {
                // In steps of the scale: neither too great nor too small to be squared.
                let square = |x: f32| {
                    let steps = x * inverses[column];
                    let off = rounded(steps) - MAGIC - steps;
                    off * off
                };
                errors[column] += square(first[column]) + square(second[column]);
            }
        }
        for column in 0..PANEL {
            let step = scales[column] / peaks[column];
            let error = errors[column] * step * step;
            let better = error < least[column];
            least[column] = if better { error } else { least[column] };
            best.0[column] = if better {
                scales[column]
            } else {
                best.0[column]
            };
            best.1[column] = if better {
                inverses[column]
            } else {
                best.1[column]
            };
        }
    }
    best
}

/// The nearest whole number from -8 to 7, plus [`MAGIC`].
#[inline(always)]
fn rounded(x: f32) -> f32 {
    x.clamp(-8.0, 7.0) + MAGIC
}
