//! The two matrix products of attention, in register tiles of queries by vectors.

use super::format::{CHUNK, KvFormat, SCORES};
use super::split::Split;
use crate::kernels::simd::{LANES, Simd};

/// Whether `Q` queries by `N` vectors fit into the registers.
#[inline(always)]
const fn fits<S: Simd, const Q: usize, const N: usize>() -> bool {
    Q * N <= S::ROWS * if S::WIDE { 2 } else { 1 }
}

/// Calls a function of a tile's height, which is a constant to it.
macro_rules! of_height {
    ($queries:expr, $call:ident :: <$s:ident, $f:ident>, $args:tt) => {
        of_height!($queries, 1 2 3 4 5 6 7 8 9 10 11 12, $call::<$s, $f>, $args)
    };
    ($queries:expr, $($q:literal)*, $call:ident :: <$s:ident, $f:ident>, $args:tt) => {
        match $queries {
            $($q if $q <= $s::ROWS => $call::<$s, $f, $q> $args,)*
            other => debug_assert!(false, "{other} queries in one tile"),
        }
    };
}

/// Queries up to which memory, and not arithmetic, is waited for: their tiles ask for what comes
/// next.
const FEW: usize = 6;
/// Chunks of values that are asked for ahead.
const AHEAD: usize = 4;

/// Leaves the scores of the split's first `chunks` chunks in `scores`, a row for each query of the
/// tile. `queries` are interleaved, word by word.
#[inline(always)]
pub(super) fn scores<S: Simd, F: KvFormat>(
    s: S,
    split: &Split<'_>,
    queries: &[u32],
    chunks: usize,
    scores: &mut [[f32; SCORES]],
) {
    of_height!(
        scores.len(),
        tile_scores::<S, F>,
        (s, split, queries, chunks, scores)
    );
}

#[inline(always)]
fn tile_scores<S: Simd, F: KvFormat, const Q: usize>(
    s: S,
    split: &Split<'_>,
    queries: &[u32],
    chunks: usize,
    scores: &mut [[f32; SCORES]],
) {
    let Some(scores) = scores.first_chunk_mut::<Q>() else {
        return;
    };
    let mut at = 0;
    if fits::<S, Q, 8>() {
        at = dots::<S, F, Q, 8>(s, split, queries, at, chunks, scores);
    }
    if fits::<S, Q, 4>() {
        at = dots::<S, F, Q, 4>(s, split, queries, at, chunks, scores);
    }
    if fits::<S, Q, 2>() {
        at = dots::<S, F, Q, 2>(s, split, queries, at, chunks, scores);
    }
    dots::<S, F, Q, 1>(s, split, queries, at, chunks, scores);
}

/// `N` chunks at a time from chunk `at` on while there are as many; returns where it stopped.
#[inline(always)]
fn dots<S: Simd, F: KvFormat, const Q: usize, const N: usize>(
    s: S,
    split: &Split<'_>,
    queries: &[u32],
    mut at: usize,
    chunks: usize,
    scores: &mut [[f32; SCORES]; Q],
) -> usize {
    let (words, stride) = (split.key_words(), split.stride());
    assert!(queries.len() >= words * Q);
    while at + N <= chunks {
        let mut acc = [[s.splat(0.0); N]; Q];
        let from: [*const u32; N] = std::array::from_fn(|n| split.keys(at + n));
        // As many lines as a key has words make a chunk of values as well.
        let next: [_; N] = std::array::from_fn(|n| split.after(at + N + n, chunks));
        let step = if at + N < chunks { stride } else { LANES };
        for word in 0..words {
            if Q <= FEW {
                for start in next {
                    s.prefetch(start.wrapping_add(word * step));
                }
            }
            let mut keys = [s.splat_word(0); N];
            for n in 0..N {
                // SAFETY: `word < key_words`, so that a whole vector lies there.
                let from = unsafe { &*from[n].add(word * stride).cast::<[u32; LANES]>() };
                keys[n] = s.words(from);
            }
            for (query, acc) in acc.iter_mut().enumerate() {
                // SAFETY: `word < words` and `query < Q`, and there are `words * Q`.
                let x = s.splat_word(unsafe { *queries.get_unchecked(word * Q + query) });
                for n in 0..N {
                    acc[n] = F::dot(s, x, keys[n], acc[n]);
                }
            }
        }
        for (scores, acc) in scores.iter_mut().zip(acc) {
            let (to, _) = scores.as_chunks_mut::<CHUNK>();
            for (to, acc) in to[at..].iter_mut().zip(acc) {
                s.store(acc, to);
            }
        }
        at += N;
    }
    at
}

/// Leaves `Σ p·v` over the first `seen[query]` positions of the split in row `query` of `out`, each
/// row filled up to whole vectors.
#[inline(always)]
pub(super) fn weighted<S: Simd, F: KvFormat>(
    s: S,
    split: &Split<'_>,
    seen: &[usize],
    weights: &[[f32; SCORES]],
    out: &mut [f32],
) {
    // Rows that every query sees whole are read once for all; the rest for each query alone. A
    // position that a query does not see never enters its sum, not even times zero.
    let common = seen.iter().copied().fold(usize::MAX, usize::min) / F::PACKED;
    of_height!(
        seen.len(),
        tile_weighted::<S, F>,
        (s, split, common, weights, out)
    );
    let vectors = split.head_dim().div_ceil(LANES);
    let (out, _) = out.as_chunks_mut::<LANES>();
    for (query, (&seen, weights)) in seen.iter().zip(weights).enumerate() {
        let out = &mut out[query * vectors..(query + 1) * vectors];
        let rows = weights.iter().enumerate();
        let end = seen.div_ceil(F::PACKED);
        for (row, weight) in rows.take(end).skip(common) {
            let weight = s.splat_word(weight.to_bits());
            let (words, _) = split.row(row).as_chunks::<LANES>();
            let whole = (row + 1) * F::PACKED <= seen;
            for (out, words) in out.iter_mut().zip(words) {
                let words = match whole {
                    true => s.words(words),
                    false => s.words(&words.map(|word| F::value(word, 0))),
                };
                s.store(F::dot(s, weight, words, s.load(out)), out);
            }
        }
    }
}

#[inline(always)]
fn tile_weighted<S: Simd, F: KvFormat, const Q: usize>(
    s: S,
    split: &Split<'_>,
    rows: usize,
    weights: &[[f32; SCORES]],
    out: &mut [f32],
) {
    let Some(weights) = weights.first_chunk::<Q>() else {
        return;
    };
    let vectors = split.head_dim().div_ceil(LANES);
    let mut at = 0;
    if fits::<S, Q, 8>() {
        at = columns::<S, F, Q, 8>(s, split, rows, weights, at, vectors, out);
    }
    if fits::<S, Q, 4>() {
        at = columns::<S, F, Q, 4>(s, split, rows, weights, at, vectors, out);
    }
    if fits::<S, Q, 2>() {
        at = columns::<S, F, Q, 2>(s, split, rows, weights, at, vectors, out);
    }
    columns::<S, F, Q, 1>(s, split, rows, weights, at, vectors, out);
}

/// The first `rows` value rows, `N` vectors of dimensions at a time from vector `at` on while there
/// are as many; returns where it stopped.
#[inline(always)]
fn columns<S: Simd, F: KvFormat, const Q: usize, const N: usize>(
    s: S,
    split: &Split<'_>,
    rows: usize,
    weights: &[[f32; SCORES]; Q],
    mut at: usize,
    vectors: usize,
    out: &mut [f32],
) -> usize {
    let (dim, each) = (split.head_dim(), CHUNK / F::PACKED);
    let chunks = rows.div_ceil(each);
    assert!(rows <= SCORES);
    while at + N <= vectors {
        let mut acc = [[s.splat(0.0); N]; Q];
        let mut row = 0;
        while row < rows {
            let from = split.values(row / each);
            let count = each.min(rows - row);
            let next = split.after(chunks + row / each + AHEAD, chunks);
            for step in 0..count {
                if Q <= FEW {
                    for n in 0..N {
                        s.prefetch(next.wrapping_add(step * dim + (at + n) * LANES));
                    }
                }
                let mut values = [s.splat_word(0); N];
                for (n, values) in values.iter_mut().enumerate() {
                    let at = step * dim + (at + n) * LANES;
                    // SAFETY: `step < CHUNK / packed`, and the vector is one of a row's.
                    *values = s.words(unsafe { &*from.add(at).cast::<[u32; LANES]>() });
                }
                for query in 0..Q {
                    // SAFETY: `row + step < rows <= SCORES`.
                    let weight = unsafe { *weights[query].get_unchecked(row + step) };
                    let weight = s.splat_word(weight.to_bits());
                    for n in 0..N {
                        acc[query][n] = F::dot(s, weight, values[n], acc[query][n]);
                    }
                }
            }
            row += count;
        }
        let (to, _) = out.as_chunks_mut::<LANES>();
        for (query, acc) in acc.into_iter().enumerate() {
            for (to, acc) in to[query * vectors + at..].iter_mut().zip(acc) {
                s.store(acc, to);
            }
        }
        at += N;
    }
    at
}
