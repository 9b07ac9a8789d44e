//! From queries to outputs, split by split.

use super::values::weighted;
use super::{KvNumber, SCORES, SPLIT, Task};
use crate::kernels::activation::{exp, exp1};
use crate::kernels::simd::{LANES, Simd};

/// Vectors of sixteen slots in a split, at most: each block adds at most one that is not full.
const VECTORS: usize = SPLIT / LANES + 1;

impl<E: KvNumber> Task<'_, E> {
    /// The position after the last one that query `query` sees.
    #[inline(always)]
    fn visible(&self, query: usize) -> usize {
        self.span.position + query / self.heads.len() + 1
    }

    /// Computes the `Q` queries of the task: token by token, head by head.
    #[inline(always)]
    pub(super) fn queries<S: Simd, const Q: usize>(&mut self, s: S) {
        let dim = self.projections.shape.head_dim;
        let scratch = std::mem::take(&mut self.scratch);
        let (queries, scratch) = scratch.split_at_mut(Q * dim);
        let (scores, scratch) = scratch.split_at_mut(Q * SCORES);
        let (part, scratch) = scratch.split_at_mut(Q * dim);
        let total = &mut scratch[..Q * dim];
        let Some(scores) = scores.as_chunks_mut::<SCORES>().0.first_chunk_mut::<Q>() else {
            return;
        };

        let heads = self.heads.len();
        let scale = 1.0 / (dim as f32).sqrt();
        for query in 0..Q {
            let (token, head) = (query / heads, self.heads.start + query % heads);
            let x = self.projections.head(self.span.first + token, head);
            let position = self.span.position + token;
            self.context.rope.rotate(position, x, |d, x| {
                queries[d * Q + query] = x * scale;
            });
        }

        let mut peaks = [0.0f32; Q];
        let mut sums = [0.0f32; Q];
        let end = self.visible(Q - 1);
        for split in 0..end.div_ceil(SPLIT) {
            let begin = split * SPLIT;
            let seen: [usize; Q] =
                std::array::from_fn(|query| self.visible(query).saturating_sub(begin).min(SPLIT));
            self.scores::<S, Q>(s, queries, begin..end.min(begin + SPLIT), scores);
            let mut part_peaks = [0.0f32; Q];
            let mut part_sums = [0.0f32; Q];
            for query in 0..Q {
                (part_peaks[query], part_sums[query]) = softmax(s, &mut scores[query], seen[query]);
            }
            weighted::<S, E, Q>(s, self, begin, &seen, scores, part);
            for query in 0..Q {
                let part = &part[query * dim..(query + 1) * dim];
                let total = &mut total[query * dim..(query + 1) * dim];
                if split == 0 {
                    total.copy_from_slice(part);
                    peaks[query] = part_peaks[query];
                    sums[query] = part_sums[query];
                } else if seen[query] > 0 {
                    let peak = if part_peaks[query] > peaks[query] {
                        part_peaks[query]
                    } else {
                        peaks[query]
                    };
                    let old = exp1(s, peaks[query] - peak);
                    let new = exp1(s, part_peaks[query] - peak);
                    sums[query] = s.fma1(part_sums[query], new, sums[query] * old);
                    for (total, part) in total.iter_mut().zip(part) {
                        *total = s.fma1(*part, new, *total * old);
                    }
                    peaks[query] = peak;
                }
            }
        }

        let width = self.projections.heads * dim;
        for query in 0..Q {
            let (token, head) = (query / heads, self.heads.start + query % heads);
            let place = self.tiling.place(self.span.first + token, width);
            let inverse = 1.0 / sums[query];
            for (d, x) in total[query * dim..(query + 1) * dim].iter().enumerate() {
                let at = place.start + (head * dim + d) * place.step;
                // SAFETY: the numbers of one token and head are this task's alone.
                unsafe { self.out.write(at, x * inverse) };
            }
        }
    }

    /// The scores of the positions in `range`, which lies in one split. Of a vector that sticks out
    /// of the range, the rest is left undefined.
    #[inline(always)]
    fn scores<S: Simd, const Q: usize>(
        &self,
        s: S,
        queries: &[f32],
        range: std::ops::Range<usize>,
        scores: &mut [[f32; SCORES]; Q],
    ) {
        let shape = self.projections.shape;
        let (dim, size) = (shape.head_dim, shape.block_size);
        // Whole vectors first, gathered, so that several can be accumulated at the same time.
        let mut vectors = [(0usize, 0usize); VECTORS];
        let mut count = 0;
        let mut position = range.start;
        while position < range.end {
            let (block, slot) = self.locate(position);
            let keys = shape.keys(block, self.kv_head);
            let stop = (position - slot + size).min(range.end);
            let mut at = slot;
            while position < stop {
                let room = size - at;
                if room >= LANES && count < VECTORS {
                    // Beyond the range's end the page still has room: those lanes are not used.
                    vectors[count] = (keys + at, position - range.start);
                    count += 1;
                    let step = LANES.min(stop - position);
                    (at, position) = (at + step, position + step);
                } else {
                    for query in 0..Q {
                        let mut sum = 0.0;
                        for d in 0..dim {
                            let key = self.context.layer[keys + d * size + at].wide();
                            sum = s.fma1(queries[d * Q + query], key, sum);
                        }
                        scores[query][position - range.start] = sum;
                    }
                    (at, position) = (at + 1, position + 1);
                }
            }
        }
        let mut rest = &vectors[..count];
        if Q <= 2 {
            rest = self.dots::<S, Q, 8>(s, queries, rest, scores);
        }
        if Q <= 4 {
            rest = self.dots::<S, Q, 4>(s, queries, rest, scores);
        }
        rest = self.dots::<S, Q, 2>(s, queries, rest, scores);
        self.dots::<S, Q, 1>(s, queries, rest, scores);
    }

    /// Scores of `N` vectors at a time while there are as many; returns the others.
    #[inline(always)]
    fn dots<'v, S: Simd, const Q: usize, const N: usize>(
        &self,
        s: S,
        queries: &[f32],
        vectors: &'v [(usize, usize)],
        scores: &mut [[f32; SCORES]; Q],
    ) -> &'v [(usize, usize)] {
        let (dim, size) = (
            self.projections.shape.head_dim,
            self.projections.shape.block_size,
        );
        let (groups, rest) = vectors.as_chunks::<N>();
        assert!(queries.len() >= dim * Q);
        for group in groups {
            let mut acc = [[s.splat(0.0); N]; Q];
            let last = (dim - 1) * size + LANES;
            assert!(
                group
                    .iter()
                    .all(|&(keys, _)| keys + last <= self.context.layer.len())
            );
            for d in 0..dim {
                let mut keys = [s.splat(0.0); N];
                for n in 0..N {
                    // SAFETY: sixteen numbers from `keys + d * size` on, with `d < dim`: in bounds
                    // by the assertion above.
                    let from = unsafe {
                        &*self
                            .context
                            .layer
                            .as_ptr()
                            .add(group[n].0 + d * size)
                            .cast::<[E; LANES]>()
                    };
                    keys[n] = E::load(s, from);
                }
                for (query, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: `d < dim` and `query < Q`, and there are `dim * Q` numbers.
                    let x = s.splat(unsafe { *queries.get_unchecked(d * Q + query) });
                    for n in 0..N {
                        acc[n] = s.fma(x, keys[n], acc[n]);
                    }
                }
            }
            for query in 0..Q {
                for n in 0..N {
                    if let Some(to) = scores[query][group[n].1..].first_chunk_mut::<LANES>() {
                        s.store(acc[query][n], to);
                    }
                }
            }
        }
        rest
    }
}

/// Turns the first `seen` scores into `e^(score - peak)`; returns the peak and the sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32; SCORES], seen: usize) -> (f32, f32) {
    if seen == 0 {
        return (f32::NEG_INFINITY, 0.0);
    }
    let whole = seen.next_multiple_of(LANES);
    scores[seen..whole].fill(f32::NEG_INFINITY);
    let (chunks, _) = scores[..whole].as_chunks_mut::<LANES>();
    let mut peak = s.splat(f32::NEG_INFINITY);
    for chunk in chunks.iter() {
        peak = s.max(peak, s.load(chunk));
    }
    let peak = s
        .lanes(peak)
        .into_iter()
        .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
    let shift = s.splat(peak);
    let mut sum = s.splat(0.0);
    for chunk in chunks.iter_mut() {
        let p = exp(s, s.sub(s.load(chunk), shift));
        s.store(p, chunk);
    }
    scores[seen..whole].fill(0.0);
    let (chunks, _) = scores[..whole].as_chunks::<LANES>();
    for chunk in chunks {
        sum = s.add(sum, s.load(chunk));
    }
    (peak, s.sum(sum))
}
