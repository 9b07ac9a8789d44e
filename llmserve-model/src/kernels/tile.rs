//! The register tile: a few rows times one or more panels, all of the depth.
//!
//! ```text
//!             panel word  [c0 … c15] [c16 … c31]
//!  row 0, word ─ splat ─► │ acc     │ acc      │     floats: one chain from the first word on
//!  row 1, word ─ splat ─► │ acc     │ acc      │     integers: exact within a group of channels,
//!      …                                              then one chain of scaled groups in f32
//! ```

// Rows, panels and vectors are numbers of the same tile: of its sums, its weights, its scales.
#![allow(clippy::needless_range_loop)]

use super::format::{Format, PIECE};
use super::inputs::Tile;
use super::packed::{INT4_BLOCK, INT4_SCALES, PANEL};
use super::simd::{LANES, Simd};

/// Most rows of a tile at any level.
pub(super) const MOST_ROWS: usize = 12;
/// Most panels that one call multiplies with.
pub(super) const MOST_PANELS: usize = 4;

/// One panel's results, before scales of columns and bias.
pub(super) type Block = [[f32; PANEL]; MOST_ROWS];

/// What is asked for ahead of use.
#[derive(Clone, Copy)]
pub(super) enum Ahead {
    /// Nothing: the panels are in a cache already.
    Nothing,
    /// The panels themselves, which come from memory now.
    Stream,
    /// Some cache lines from here on, one for each word of the panels: what comes next, while these
    /// are in use.
    Lines(*const u32),
}

impl Ahead {
    /// What panel `panel` of a call asks for.
    #[inline(always)]
    fn of(self, panel: usize, words: usize) -> Self {
        match self {
            Ahead::Lines(from) => Ahead::Lines(from.wrapping_add(panel * words * LANES)),
            other => other,
        }
    }
}

/// A weight format's arithmetic: how words become sums.
pub(super) trait Product: Copy {
    const FORMAT: Format;

    /// Multiplies the rows of `input` with `panels` and leaves panel `i`'s results in `out[i]`.
    fn tile<S: Simd, const ROWS: usize, const PANELS: usize, const VECTORS: usize>(
        s: S,
        depth: usize,
        input: Tile<'_>,
        panels: [&[u32]; PANELS],
        half: usize,
        ahead: Ahead,
        out: &mut [Block],
    );
}

/// Multiplies the rows of `input` with each of `panels` (at most [`MOST_PANELS`]) and leaves panel
/// `i`'s results in `out[i]`.
///
/// Each result is one chain of operations along the depth, whatever the number of rows.
#[inline(always)]
pub(super) fn multiply<S: Simd, P: Product>(
    s: S,
    depth: usize,
    input: Tile<'_>,
    panels: &[&[u32]],
    ahead: Ahead,
    out: &mut [Block; MOST_PANELS],
) {
    macro_rules! each_panel {
        ($rows:literal) => {
            if S::ROWS >= $rows {
                for (i, (panel, out)) in panels.iter().zip(out.iter_mut()).enumerate() {
                    let ahead = ahead.of(i, P::FORMAT.panel_words(depth));
                    one::<S, P, $rows>(s, depth, input, panel, ahead, out);
                }
            }
        };
    }
    match input.rows {
        // A single chain would wait for itself: few rows take several panels at once.
        1 if panels.len() == 4 && S::WIDE => several::<S, P, 1, 4>(s, depth, input, panels, out),
        1 if panels.len() == 2 && S::WIDE => several::<S, P, 1, 2>(s, depth, input, panels, out),
        1 => {
            for (panel, out) in panels.iter().zip(out.iter_mut()) {
                let out = std::slice::from_mut(out);
                P::tile::<S, 1, 1, 2>(s, depth, input, [*panel], 0, Ahead::Stream, out);
            }
        }
        2 if panels.len() == 4 && S::WIDE => several::<S, P, 2, 4>(s, depth, input, panels, out),
        2 if panels.len() == 2 && S::WIDE => several::<S, P, 2, 2>(s, depth, input, panels, out),
        3 if panels.len() == 2 && S::WIDE => several::<S, P, 3, 2>(s, depth, input, panels, out),
        2 => each_panel!(2),
        3 => each_panel!(3),
        4 => each_panel!(4),
        5 => each_panel!(5),
        6 => each_panel!(6),
        7 => each_panel!(7),
        8 => each_panel!(8),
        9 => each_panel!(9),
        10 => each_panel!(10),
        11 => each_panel!(11),
        12 => each_panel!(12),
        rows => debug_assert!(false, "a tile of {rows} rows"),
    }
}

#[inline(always)]
fn several<S: Simd, P: Product, const ROWS: usize, const PANELS: usize>(
    s: S,
    depth: usize,
    input: Tile<'_>,
    panels: &[&[u32]],
    out: &mut [Block; MOST_PANELS],
) {
    let Some(panels) = panels.first_chunk::<PANELS>() else {
        return;
    };
    let out = &mut out[..PANELS];
    P::tile::<S, ROWS, PANELS, 2>(s, depth, input, *panels, 0, Ahead::Stream, out);
}

#[inline(always)]
fn one<S: Simd, P: Product, const ROWS: usize>(
    s: S,
    depth: usize,
    input: Tile<'_>,
    panel: &[u32],
    ahead: Ahead,
    out: &mut Block,
) {
    let out = std::slice::from_mut(out);
    if S::WIDE {
        P::tile::<S, ROWS, 1, 2>(s, depth, input, [panel], 0, ahead, out);
    } else {
        P::tile::<S, ROWS, 1, 1>(s, depth, input, [panel], 0, ahead, out);
        P::tile::<S, ROWS, 1, 1>(s, depth, input, [panel], 1, Ahead::Nothing, out);
    }
}

/// Words of a panel that are asked for ahead of use.
const AHEAD: usize = 32;

/// Asks for what is needed soon, at word `word` of the panels.
#[inline(always)]
fn ask<S: Simd, const PANELS: usize>(
    s: S,
    ahead: Ahead,
    panels: &[&[u32]; PANELS],
    at: usize,
    word: usize,
) {
    match ahead {
        Ahead::Nothing => {}
        Ahead::Stream => {
            // The hardware's own prefetcher stops at 4 KiB.
            for panel in panels {
                let at = panel.as_ptr().wrapping_add(at + AHEAD * PANEL);
                s.prefetch(at);
                s.prefetch(at.wrapping_add(LANES));
            }
        }
        Ahead::Lines(from) => s.prefetch(from.wrapping_add(word * LANES)),
    }
}

/// The piece of each row that begins at word `begin`.
///
/// # Panics
/// If the rows are shorter.
#[inline(always)]
fn piece<'a, const ROWS: usize>(input: Tile<'a>, begin: usize) -> &'a [[u32; PIECE]; ROWS] {
    let from = &input.words[begin * ROWS..];
    let Some(piece) = from.as_chunks().0.first_chunk() else {
        unreachable!("rows are made of whole pieces");
    };
    piece
}

/// Sixteen words of a panel.
///
/// # Safety
/// `at + 16 <= panel.len()`.
#[inline(always)]
unsafe fn weights<S: Simd>(s: S, panel: &[u32], at: usize) -> S::W {
    // SAFETY: the caller's promise.
    s.words(unsafe { &*panel.as_ptr().add(at).cast::<[u32; LANES]>() })
}

/// Writes a tile's sums where they belong.
#[inline(always)]
fn put<S: Simd, const ROWS: usize, const PANELS: usize, const VECTORS: usize>(
    s: S,
    sums: &[[[S::V; VECTORS]; PANELS]; ROWS],
    half: usize,
    out: &mut [Block],
) {
    for p in 0..PANELS {
        for r in 0..ROWS {
            for v in 0..VECTORS {
                if let Some(to) = out[p][r][(half + v) * LANES..].first_chunk_mut::<LANES>() {
                    s.store(sums[r][p][v], to);
                }
            }
        }
    }
}

/// Products of `f32`.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl Product for F32 {
    const FORMAT: Format = Format::F32;

    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const PANELS: usize, const VECTORS: usize>(
        s: S,
        depth: usize,
        input: Tile<'_>,
        panels: [&[u32]; PANELS],
        half: usize,
        ahead: Ahead,
        out: &mut [Block],
    ) {
        let words = Self::FORMAT.words(depth);
        float::<S, false, ROWS, PANELS, VECTORS>(s, words, input, panels, half, ahead, out);
    }
}

/// Products of pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct Bf16;

impl Product for Bf16 {
    const FORMAT: Format = Format::Bf16;

    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const PANELS: usize, const VECTORS: usize>(
        s: S,
        depth: usize,
        input: Tile<'_>,
        panels: [&[u32]; PANELS],
        half: usize,
        ahead: Ahead,
        out: &mut [Block],
    ) {
        let words = Self::FORMAT.words(depth);
        float::<S, true, ROWS, PANELS, VECTORS>(s, words, input, panels, half, ahead, out);
    }
}

/// Words of one `f32`, or of two `BF16`, multiplied and added in `f32`.
#[inline(always)]
fn float<
    S: Simd,
    const BF16: bool,
    const ROWS: usize,
    const PANELS: usize,
    const VECTORS: usize,
>(
    s: S,
    words: usize,
    input: Tile<'_>,
    panels: [&[u32]; PANELS],
    half: usize,
    ahead: Ahead,
    out: &mut [Block],
) {
    assert!(half + VECTORS <= PANEL / LANES);
    assert!(panels.iter().all(|panel| panel.len() >= words * PANEL));
    let mut sums = [[[s.splat(0.0); VECTORS]; PANELS]; ROWS];
    for begin in (0..words).step_by(PIECE) {
        let piece = piece::<ROWS>(input, begin);
        for at in 0..PIECE.min(words - begin) {
            let word = begin + at;
            ask(s, ahead, &panels, word * PANEL, word);
            let mut w = [[s.splat_word(0); VECTORS]; PANELS];
            for p in 0..PANELS {
                for v in 0..VECTORS {
                    let from = word * PANEL + (half + v) * LANES;
                    // SAFETY: `word < words` and `half + v < 2`: see the assertions.
                    w[p][v] = unsafe { weights(s, panels[p], from) };
                }
            }
            for r in 0..ROWS {
                let x = s.splat_word(piece[r][at]);
                for p in 0..PANELS {
                    for v in 0..VECTORS {
                        let sum = sums[r][p][v];
                        sums[r][p][v] = if BF16 {
                            s.dot_bf16(w[p][v], x, sum)
                        } else {
                            s.fma(s.float(x), s.float(w[p][v]), sum)
                        };
                    }
                }
            }
        }
    }
    put::<S, ROWS, PANELS, VECTORS>(s, &sums, half, out);
}

/// Products of bytes, the weights' scales left to the end.
#[derive(Clone, Copy)]
pub(super) struct Int8;

impl Product for Int8 {
    const FORMAT: Format = Format::Int8;

    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const PANELS: usize, const VECTORS: usize>(
        s: S,
        depth: usize,
        input: Tile<'_>,
        panels: [&[u32]; PANELS],
        half: usize,
        ahead: Ahead,
        out: &mut [Block],
    ) {
        let words = Self::FORMAT.words(depth);
        let groups = Self::FORMAT.groups(depth);
        const { assert!(Self::FORMAT.group() / 4 == PIECE) };
        assert!(half + VECTORS <= PANEL / LANES);
        assert!(input.scales.len() >= groups * ROWS && input.offsets.len() >= groups * ROWS);
        assert!(panels.iter().all(|panel| panel.len() >= words * PANEL));
        let mut sums = [[[s.splat(0.0); VECTORS]; PANELS]; ROWS];
        for group in 0..groups {
            let mut acc = [[[s.splat_word(0); VECTORS]; PANELS]; ROWS];
            for (r, acc) in acc.iter_mut().enumerate() {
                let offset = s.splat_word(input.offsets[group * ROWS + r]);
                *acc = [[offset; VECTORS]; PANELS];
            }
            let begin = group * PIECE;
            let piece = piece::<ROWS>(input, begin);
            for at in 0..PIECE.min(words - begin) {
                let word = begin + at;
                ask(s, ahead, &panels, word * PANEL, word);
                let mut w = [[s.splat_word(0); VECTORS]; PANELS];
                for p in 0..PANELS {
                    for v in 0..VECTORS {
                        let from = word * PANEL + (half + v) * LANES;
                        // SAFETY: `word < words` and `half + v < 2`: see the assertions.
                        w[p][v] = unsafe { weights(s, panels[p], from) };
                    }
                }
                for r in 0..ROWS {
                    let x = s.splat_word(piece[r][at]);
                    for p in 0..PANELS {
                        for v in 0..VECTORS {
                            acc[r][p][v] = s.dot_i8(w[p][v], x, acc[r][p][v]);
                        }
                    }
                }
            }
            for r in 0..ROWS {
                let scale = s.splat(input.scales[group * ROWS + r]);
                for p in 0..PANELS {
                    for v in 0..VECTORS {
                        sums[r][p][v] = s.fma(s.to_f32(acc[r][p][v]), scale, sums[r][p][v]);
                    }
                }
            }
        }
        put::<S, ROWS, PANELS, VECTORS>(s, &sums, half, out);
    }
}

/// Products of bytes with four bits, scaled group by group.
#[derive(Clone, Copy)]
pub(super) struct Int4;

impl Product for Int4 {
    const FORMAT: Format = Format::Int4;

    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const PANELS: usize, const VECTORS: usize>(
        s: S,
        depth: usize,
        input: Tile<'_>,
        panels: [&[u32]; PANELS],
        half: usize,
        ahead: Ahead,
        out: &mut [Block],
    ) {
        let groups = Self::FORMAT.groups(depth);
        // Two words of activations for one of weights.
        let words = Self::FORMAT.words(depth) / 2;
        let each = Self::FORMAT.group() / 8;
        assert!(half + VECTORS <= PANEL / LANES);
        assert!(input.scales.len() >= groups * ROWS && input.offsets.len() >= groups * ROWS);
        assert!(
            panels
                .iter()
                .all(|panel| panel.len() >= groups * INT4_BLOCK)
        );
        let mut sums = [[[s.splat(0.0); VECTORS]; PANELS]; ROWS];
        for group in 0..groups {
            let block = group * INT4_BLOCK;
            let mut acc = [[[s.splat_word(0); VECTORS]; PANELS]; ROWS];
            for (r, acc) in acc.iter_mut().enumerate() {
                let offset = s.splat_word(input.offsets[group * ROWS + r]);
                *acc = [[offset; VECTORS]; PANELS];
            }
            if let Ahead::Stream = ahead {
                for panel in panels {
                    s.prefetch(panel.as_ptr().wrapping_add(block + AHEAD * PANEL));
                }
            }
            let begin = 2 * group * each;
            let piece = piece::<ROWS>(input, begin / PIECE * PIECE);
            for word in 0..each.min(words - group * each) {
                let start = block + INT4_SCALES + word * PANEL;
                ask(s, ahead, &panels, start, group * each + word);
                let at = begin % PIECE + 2 * word;
                for p in 0..PANELS {
                    for v in 0..VECTORS {
                        // SAFETY: within block `group` of the panel: see the assertions.
                        let w = unsafe { weights(s, panels[p], start + (half + v) * LANES) };
                        let (low, high) = (s.low_nibbles(w), s.high_nibbles(w));
                        for r in 0..ROWS {
                            let x = s.splat_word(piece[r][at]);
                            let y = s.splat_word(piece[r][at + 1]);
                            let sum = s.dot_i8(low, x, acc[r][p][v]);
                            acc[r][p][v] = s.dot_i8(high, y, sum);
                        }
                    }
                }
            }
            let mut scales = [[s.splat(0.0); VECTORS]; PANELS];
            for p in 0..PANELS {
                // Two to a word: of column c and of column c + 16.
                // SAFETY: a block begins with its scales: see the assertions.
                let both = unsafe { weights(s, panels[p], block) };
                for v in 0..VECTORS {
                    scales[p][v] = if half + v == 0 {
                        s.low(both)
                    } else {
                        s.high(both)
                    };
                }
            }
            for r in 0..ROWS {
                let scale = s.splat(input.scales[group * ROWS + r]);
                for p in 0..PANELS {
                    for v in 0..VECTORS {
                        let scaled = s.mul(s.to_f32(acc[r][p][v]), scale);
                        sums[r][p][v] = s.fma(scaled, scales[p][v], sums[r][p][v]);
                    }
                }
            }
        }
        put::<S, ROWS, PANELS, VECTORS>(s, &sums, half, out);
    }
}
