//! What one split gives a tile of queries, and how splits are put together.
//!
//! ```text
//!  ┌ peaks (16) ┬ sums (16) ┬ query 0: Σ p·v, whole vectors ┬ query 1 … ┐
//! ```
//!
//! The online softmax of Milakov and Gimelshein (2018). Merging is no exact operation, so it is
//! always done in the same order: split by split from the first on, whoever computed them.

use super::format::{CHUNK, KvFormat, SCORES};
use crate::kernels::simd::{LANES, Simd};

/// Where the sums of values begin.
const SUMS: usize = 2 * LANES;

/// Numbers of a part of `queries` queries.
pub(super) fn part_len(queries: usize, head_dim: usize) -> usize {
    SUMS + queries * head_dim.next_multiple_of(LANES)
}

/// A view of a part's numbers.
pub(super) struct Part<'a> {
    /// The greatest score of each query, and after them the sums of weights.
    pub(super) peaks: &'a mut [f32; LANES],
    pub(super) sums: &'a mut [f32; LANES],
    /// Of each query, the sum of weighted values.
    pub(super) out: &'a mut [f32],
}

impl<'a> Part<'a> {
    #[inline(always)]
    pub(super) fn new(numbers: &'a mut [f32]) -> Self {
        let (head, out) = numbers.split_at_mut(SUMS);
        let (head, _) = head.as_chunks_mut::<LANES>();
        let [peaks, sums] = head else {
            unreachable!("two vectors were split off")
        };
        Self { peaks, sums, out }
    }

    /// Turns scores into weights, for each query those that it sees.
    #[inline(always)]
    pub(super) fn softmax<S: Simd, F: KvFormat>(
        &mut self,
        s: S,
        scores: &mut [[f32; SCORES]],
        seen: &[usize],
    ) {
        for (query, (scores, &seen)) in scores.iter_mut().zip(seen).enumerate() {
            (self.peaks[query], self.sums[query]) = match seen {
                0 => (f32::NEG_INFINITY, 0.0),
                _ => {
                    let peak = peak(s, scores, seen);
                    (peak, F::weights(s, scores, seen, peak))
                }
            };
        }
    }

    /// Merges the part of the next split into this one, for queries that see something of it.
    #[inline(always)]
    pub(super) fn merge<S: Simd, F: KvFormat>(&mut self, s: S, next: &Part<'_>, seen: &[usize]) {
        let (old, new) = (s.load(self.peaks), s.load(next.peaks));
        let peak = s.max(new, old);
        let old = F::exp(s, s.sub(old, peak));
        let new = F::exp(s, s.sub(new, peak));
        let sum = s.fma(s.load(next.sums), new, s.mul(s.load(self.sums), old));
        let (peak, sum) = (s.lanes(peak), s.lanes(sum));
        let (old, new) = (s.lanes(old), s.lanes(new));
        let vectors = self.out.len() / LANES / seen.len().max(1);
        let (out, _) = self.out.as_chunks_mut::<LANES>();
        let (add, _) = next.out.as_chunks::<LANES>();
        for (query, seen) in seen.iter().enumerate() {
            if *seen == 0 {
                continue;
            }
            (self.peaks[query], self.sums[query]) = (peak[query], sum[query]);
            let (old, new) = (s.splat(old[query]), s.splat(new[query]));
            let range = query * vectors..(query + 1) * vectors;
            for (out, add) in out[range.clone()].iter_mut().zip(&add[range]) {
                s.store(s.fma(s.load(add), new, s.mul(s.load(out), old)), out);
            }
        }
    }
}

/// The greatest of the first `seen` scores; those after them in the same vector become -∞.
#[inline(always)]
fn peak<S: Simd>(s: S, scores: &mut [f32; SCORES], seen: usize) -> f32 {
    let whole = seen.next_multiple_of(CHUNK);
    scores[seen..whole].fill(f32::NEG_INFINITY);
    let (chunks, _) = scores[..whole].as_chunks::<CHUNK>();
    let mut peak = s.splat(f32::NEG_INFINITY);
    for chunk in chunks {
        peak = s.max(peak, s.load(chunk));
    }
    let mut lanes = s.lanes(peak);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let (a, b) = (lanes[i], lanes[i + width]);
            lanes[i] = if a > b { a } else { b };
        }
        width /= 2;
    }
    lanes[0]
}
