//! Sums of values weighted by softmax, position after position.

use std::ops::Range;

use super::{KvNumber, SCORES, Task};
use crate::kernels::simd::{LANES, Simd};

/// Leaves `Σ p·v` over the first `seen[query]` positions from `begin` on in row `query` of `part`.
#[inline(always)]
pub(super) fn weighted<S: Simd, E: KvNumber, const Q: usize>(
    s: S,
    task: &Task<'_, E>,
    begin: usize,
    seen: &[usize; Q],
    scores: &[[f32; SCORES]; Q],
    part: &mut [f32],
) {
    let dim = task.projections.shape.head_dim;
    // What every query sees is read once for all; what only later tokens see, for each alone. A
    // position that a query does not see never enters its sum, not even times zero.
    let common = seen.iter().copied().fold(usize::MAX, usize::min);
    let mut from = 0;
    if Q == 1 {
        from = columns::<S, E, Q, 8>(s, task, begin, common, scores, from, part);
    }
    if Q <= 4 {
        from = columns::<S, E, Q, 4>(s, task, begin, common, scores, from, part);
    }
    from = columns::<S, E, Q, 2>(s, task, begin, common, scores, from, part);
    from = columns::<S, E, Q, 1>(s, task, begin, common, scores, from, part);
    for query in 0..Q {
        let part = &mut part[query * dim..(query + 1) * dim];
        part[from..].fill(0.0);
        task.each_run(begin..begin + common, |at, values, len| {
            for slot in 0..len {
                let p = scores[query][at - begin + slot];
                let values = &values[slot * dim..(slot + 1) * dim];
                for (sum, value) in part[from..].iter_mut().zip(&values[from..]) {
                    *sum = s.fma1(p, value.wide(), *sum);
                }
            }
        });
        task.each_run(begin + common..begin + seen[query], |at, values, len| {
            for slot in 0..len {
                let p = scores[query][at - begin + slot];
                let values = &values[slot * dim..(slot + 1) * dim];
                for (sum, value) in part.iter_mut().zip(values) {
                    *sum = s.fma1(p, value.wide(), *sum);
                }
            }
        });
    }
}

/// `N` vectors of dimensions at a time, from dimension `from` on; returns where it stopped.
#[inline(always)]
fn columns<S: Simd, E: KvNumber, const Q: usize, const N: usize>(
    s: S,
    task: &Task<'_, E>,
    begin: usize,
    common: usize,
    scores: &[[f32; SCORES]; Q],
    mut from: usize,
    part: &mut [f32],
) -> usize {
    let shape = task.projections.shape;
    let (dim, size) = (shape.head_dim, shape.block_size);
    while from + N * LANES <= dim {
        let mut acc = [[s.splat(0.0); N]; Q];
        let mut position = begin;
        while position < begin + common {
            let (block, slot) = task.locate(position);
            let len = (size - slot).min(begin + common - position);
            let start = shape.values(block, task.kv_head) + slot * dim;
            let values = &task.context.layer[start..start + len * dim];
            for (at, values) in values.chunks_exact(dim).enumerate() {
                let at = position - begin + at;
                let values = &values[from..from + N * LANES];
                let (values, _) = values.as_chunks::<LANES>();
                let mut wide = [s.splat(0.0); N];
                for n in 0..N {
                    wide[n] = E::load(s, &values[n]);
                }
                for query in 0..Q {
                    // SAFETY: positions of one split: `at < SPLIT < SCORES`.
                    let p = s.splat(unsafe { *scores[query].get_unchecked(at) });
                    for n in 0..N {
                        acc[query][n] = s.fma(p, wide[n], acc[query][n]);
                    }
                }
            }
            position += len;
        }
        for query in 0..Q {
            let row = &mut part[query * dim + from..query * dim + from + N * LANES];
            let (row, _) = row.as_chunks_mut::<LANES>();
            for n in 0..N {
                s.store(acc[query][n], &mut row[n]);
            }
        }
        from += N * LANES;
    }
    from
}

impl<E: KvNumber> Task<'_, E> {
    /// Calls `f(position, values, len)` for every run of positions in one block.
    #[inline(always)]
    fn each_run(&self, range: Range<usize>, mut f: impl FnMut(usize, &[E], usize)) {
        let shape = self.projections.shape;
        let (dim, size) = (shape.head_dim, shape.block_size);
        let mut position = range.start;
        while position < range.end {
            let (block, slot) = self.locate(position);
            let len = (size - slot).min(range.end - position);
            let start = shape.values(block, self.kv_head) + slot * dim;
            f(position, &self.context.layer[start..start + len * dim], len);
            position += len;
        }
    }
}
