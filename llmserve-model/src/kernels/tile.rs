//! The register tile: a few rows times one or more panels, all of `k`.

use super::packed::{PANEL, Weight};
use super::simd::{LANES, Simd};

/// Most rows of a tile at any level.
pub(super) const MOST_ROWS: usize = 12;
/// Most panels that one call multiplies with.
pub(super) const MOST_PANELS: usize = 4;

/// One panel's results, before bias.
pub(super) type Block = [[f32; PANEL]; MOST_ROWS];

/// Multiplies `rows` interleaved rows with each of `panels` (at most [`MOST_PANELS`]) and leaves
/// panel `i`'s results in `out[i][..rows]`.
///
/// Each result is one chain of fused multiply-adds from `k = 0` up, whatever `rows` is.
#[inline(always)]
pub(super) fn multiply<S: Simd, W: Weight>(
    s: S,
    depth: usize,
    rows: usize,
    input: &[f32],
    panels: &[&[W]],
    out: &mut [Block; MOST_PANELS],
) {
    macro_rules! each_panel {
        ($rows:literal) => {
            if S::ROWS >= $rows {
                for (panel, out) in panels.iter().zip(out.iter_mut()) {
                    one::<S, W, $rows>(s, depth, input, panel, out);
                }
            }
        };
    }
    match rows {
        // A single chain would wait for itself: few rows take several panels at once.
        1 if panels.len() == 4 && S::WIDE => several::<S, W, 1, 4>(s, depth, input, panels, out),
        1 if panels.len() == 2 && S::WIDE => several::<S, W, 1, 2>(s, depth, input, panels, out),
        1 => {
            for (panel, out) in panels.iter().zip(out.iter_mut()) {
                tile::<S, W, 1, 1, 2>(s, depth, input, [*panel], 0, std::slice::from_mut(out));
            }
        }
        2 if panels.len() == 4 && S::WIDE => several::<S, W, 2, 4>(s, depth, input, panels, out),
        2 if panels.len() == 2 && S::WIDE => several::<S, W, 2, 2>(s, depth, input, panels, out),
        3 if panels.len() == 2 && S::WIDE => several::<S, W, 3, 2>(s, depth, input, panels, out),
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
        _ => debug_assert!(false, "a tile of {rows} rows"),
    }
}

#[inline(always)]
fn several<S: Simd, W: Weight, const ROWS: usize, const PANELS: usize>(
    s: S,
    depth: usize,
    input: &[f32],
    panels: &[&[W]],
    out: &mut [Block; MOST_PANELS],
) {
    let Some(panels) = panels.first_chunk::<PANELS>() else {
        return;
    };
    tile::<S, W, ROWS, PANELS, 2>(s, depth, input, *panels, 0, &mut out[..PANELS]);
}

#[inline(always)]
fn one<S: Simd, W: Weight, const ROWS: usize>(
    s: S,
    depth: usize,
    input: &[f32],
    panel: &[W],
    out: &mut Block,
) {
    let out = std::slice::from_mut(out);
    if S::WIDE {
        tile::<S, W, ROWS, 1, 2>(s, depth, input, [panel], 0, out);
    } else {
        tile::<S, W, ROWS, 1, 1>(s, depth, input, [panel], 0, out);
        tile::<S, W, ROWS, 1, 1>(s, depth, input, [panel], 1, out);
    }
}

/// `ROWS` × `PANELS` × `VECTORS` vectors of results, held in registers over all of `k`.
#[inline(always)]
fn tile<S: Simd, W: Weight, const ROWS: usize, const PANELS: usize, const VECTORS: usize>(
    s: S,
    depth: usize,
    input: &[f32],
    panels: [&[W]; PANELS],
    half: usize,
    out: &mut [Block],
) {
    let words = depth.div_ceil(W::DEPTH);
    assert!(half + VECTORS <= PANEL / LANES && input.len() >= depth * ROWS);
    assert!(panels.iter().all(|panel| panel.len() >= words * PANEL));
    let mut acc = [[[s.splat(0.0); VECTORS]; PANELS]; ROWS];
    let mut wide = [[s.splat(0.0); VECTORS]; PANELS];

    macro_rules! step {
        ($word:expr, $k:expr, $half:ident) => {
            for p in 0..PANELS {
                for v in 0..VECTORS {
                    let at = $word * PANEL + (half + v) * LANES;
                    // SAFETY: `word < words` and `half + v < 2`, so 16 words from `at` on lie in
                    // the panel by the assertions above.
                    let words = unsafe { &*panels[p].as_ptr().add(at).cast::<[W; LANES]>() };
                    wide[p][v] = W::$half(s, words);
                }
            }
            for r in 0..ROWS {
                // SAFETY: `k < depth`, and `input` has `depth * ROWS` numbers.
                let x = s.splat(unsafe { *input.get_unchecked($k * ROWS + r) });
                for p in 0..PANELS {
                    for v in 0..VECTORS {
                        acc[r][p][v] = s.fma(x, wide[p][v], acc[r][p][v]);
                    }
                }
            }
        };
    }

    for word in 0..depth / W::DEPTH {
        if ROWS <= 3 {
            // The panels come from memory here; the hardware's own prefetcher stops at 4 KiB.
            for panel in &panels {
                for line in 0..size_of::<W>() * PANEL / 64 {
                    let at = panel
                        .as_ptr()
                        .wrapping_add((word + AHEAD) * PANEL + line * LANES);
                    s.prefetch(at);
                }
            }
        }
        step!(word, word * W::DEPTH, lower);
        if W::DEPTH == 2 {
            step!(word, word * W::DEPTH + 1, upper);
        }
    }
    if W::DEPTH == 2 && !depth.is_multiple_of(2) {
        step!(words - 1, depth - 1, lower);
    }

    for p in 0..PANELS {
        for r in 0..ROWS {
            for v in 0..VECTORS {
                if let Some(to) = out[p][r][(half + v) * LANES..].first_chunk_mut::<LANES>() {
                    s.store(acc[r][p][v], to);
                }
            }
        }
    }
}

/// Words of a panel that are asked for ahead of use.
const AHEAD: usize = 32;
