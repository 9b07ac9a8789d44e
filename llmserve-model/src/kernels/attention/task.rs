//! One task: a span, a KV head with the queries that share it, some or all of the splits.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::agenda::{Agenda, Cut, Geometry, Span, Work};
use super::format::{KvFormat, SCORES, SPLIT};
use super::part::{Part, part_len};
use super::product::{scores, weighted};
use super::split::{Head, Split, gathered_len};
use super::{Context, Projections};
use crate::kernels::Kernel;
use crate::kernels::simd::{LANES, Simd};
use crate::pages::PageShape;
use crate::threads::Disjoint;

/// Most queries of a tile at any level.
const TILE: usize = 12;

/// Numbers of scratch memory that each thread needs.
pub(super) fn numbers_len(geometry: Geometry) -> usize {
    let part = part_len(TILE, geometry.head_dim);
    TILE * SCORES + part + geometry.parts_len(geometry.most_queries())
}

/// Words of scratch memory that each thread needs.
pub(super) fn words_len(geometry: Geometry, shape: PageShape) -> usize {
    geometry.most_queries() * shape.key_words() + gathered_len(shape)
}

pub(super) struct Task<'a> {
    pub(super) projections: Projections<'a>,
    pub(super) context: &'a Context<'a>,
    pub(super) agenda: &'a Agenda,
    pub(super) work: &'a Work,
    pub(super) kv_head: usize,
    pub(super) numbers: &'a mut [f32],
    pub(super) words: &'a mut [u32],
    /// The parts of works that are cut.
    pub(super) records: Disjoint<'a, f32>,
    /// How many works of each cut and KV head are done.
    pub(super) done: &'a [AtomicUsize],
    pub(super) out: Disjoint<'a, f32>,
}

/// A task in one of the two formats of pages.
pub(super) struct Formatted<'a, F> {
    pub(super) task: Task<'a>,
    pub(super) format: std::marker::PhantomData<F>,
}

impl<F: KvFormat> Kernel for Formatted<'_, F> {
    const BF16: bool = F::PACKED == 2;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.task.run::<S, F>(s);
    }
}

impl Task<'_> {
    #[inline(always)]
    fn run<S: Simd, F: KvFormat>(self, s: S) {
        let Task {
            projections,
            context,
            agenda,
            work,
            kv_head,
            numbers,
            words,
            records,
            done,
            out,
        } = self;
        let geometry = agenda.geometry();
        let (span, shape) = (work.span, projections.shape);
        let shared = geometry.shared();
        let queries = Queries {
            span,
            shared,
            first_head: kv_head * shared,
        };
        let head = Head {
            words: context.layer,
            table: context.tables[span.row],
            shape,
            kv_head,
            beyond: context.beyond,
        };
        let (scores, numbers) = numbers.split_at_mut(TILE * SCORES);
        let (scores, _) = scores.as_chunks_mut::<SCORES>();
        let (part, totals) = numbers.split_at_mut(part_len(TILE, shape.head_dim));
        let count = span.len * shared;
        let (inputs, gathered) = words.split_at_mut(count * shape.key_words());
        for tile in geometry.tiles(count) {
            let inputs = &mut inputs[tile.start * shape.key_words()..];
            queries.rotate::<S, F>(s, projections, context, &tile, inputs);
        }

        let parts = geometry.parts_len(count);
        // Where the parts of one split begin in the records.
        let record = |cut: &Cut, split: usize| {
            let splits = span.end().div_ceil(SPLIT);
            cut.records + (kv_head * splits + split) * parts
        };
        for split in work.splits.clone() {
            let begin = split * SPLIT;
            let keys_and_values = head.split::<F>(begin, span.end() - begin, gathered);
            let mut at = 0;
            for tile in geometry.tiles(count) {
                let len = part_len(tile.len(), shape.head_dim);
                let range = at..at + len;
                at += len;
                if queries.seen(tile.end - 1, begin) == 0 {
                    continue;
                }
                let inputs = &inputs[tile.start * shape.key_words()..];
                let cut = work.cut.map(|cut| &agenda.cuts()[cut]);
                let to = match cut {
                    Some(cut) => {
                        let start = record(cut, split) + range.start;
                        // SAFETY: the parts of a span, KV head and split are one task's alone until
                        // it says that it is done.
                        unsafe { records.part(start..start + len) }
                    }
                    // The first split's part is what the others are merged into.
                    None if split == 0 => &mut totals[range.clone()],
                    None => &mut part[..len],
                };
                let scores = &mut scores[..tile.len()];
                queries.one_split::<S, F>(s, &tile, begin, &keys_and_values, inputs, scores, to);
                if cut.is_none() && split > 0 {
                    let mut total = Part::new(&mut totals[range]);
                    queries.merge::<S, F>(
                        s,
                        &mut total,
                        &Part::new(&mut part[..len]),
                        &tile,
                        begin,
                    );
                }
            }
        }

        if let Some(index) = work.cut {
            let cut = &agenda.cuts()[index];
            // Acquires what the others released with the same operation: their parts.
            let before = done[index * geometry.kv_heads + kv_head].fetch_add(1, Ordering::AcqRel);
            if before + 1 < cut.works {
                return;
            }
            for split in 0..span.end().div_ceil(SPLIT) {
                let start = record(cut, split);
                // SAFETY: all the tasks that wrote here are done.
                let parts = unsafe { records.part(start..start + parts) };
                if split == 0 {
                    totals[..parts.len()].copy_from_slice(parts);
                    continue;
                }
                let mut at = 0;
                for tile in geometry.tiles(count) {
                    let range = at..at + part_len(tile.len(), shape.head_dim);
                    at = range.end;
                    let next = Part::new(&mut parts[range.clone()]);
                    let mut total = Part::new(&mut totals[range]);
                    queries.merge::<S, F>(s, &mut total, &next, &tile, split * SPLIT);
                }
            }
        }

        let mut at = 0;
        for tile in geometry.tiles(count) {
            let range = at..at + part_len(tile.len(), shape.head_dim);
            at = range.end;
            let total = Part::new(&mut totals[range]);
            queries.write(s, projections, &total, &tile, out);
        }
    }
}

/// The queries of a task: token by token, head by head.
struct Queries {
    span: Span,
    /// Heads of each token.
    shared: usize,
    first_head: usize,
}

impl Queries {
    /// How many positions a query sees of the split at `begin`.
    #[inline(always)]
    fn seen(&self, query: usize, begin: usize) -> usize {
        let visible = self.span.position + query / self.shared + 1;
        visible.saturating_sub(begin).min(SPLIT)
    }

    /// Rotates and scales the queries of a tile, and interleaves their words.
    #[inline(always)]
    fn rotate<S: Simd, F: KvFormat>(
        &self,
        s: S,
        projections: Projections<'_>,
        context: &Context<'_>,
        tile: &Range<usize>,
        words: &mut [u32],
    ) {
        let dim = projections.shape.head_dim;
        let half = dim / 2;
        let scale = s.splat(F::UNIT / (dim as f32).sqrt());
        for query in tile.clone() {
            let (token, head) = (query / self.shared, self.first_head + query % self.shared);
            let x = projections.head(self.span.first + token, head);
            let position = self.span.position + token;
            let place = query - tile.start;
            context.rope.rotate(s, position, x, |at, first, second| {
                let (first, second) = (s.mul(first, scale), s.mul(second, scale));
                F::keys(s, first, second, half, |offset, from| {
                    let to = &mut words[(at + offset) * tile.len()..];
                    let to = to.iter_mut().skip(place).step_by(tile.len());
                    for (to, from) in to.zip(from).take(half - at) {
                        *to = from;
                    }
                });
            });
        }
    }

    /// How many positions each query of a tile sees of the split at `begin`.
    #[inline(always)]
    fn seen_by(&self, tile: &Range<usize>, begin: usize) -> [usize; TILE] {
        let mut seen = [0; TILE];
        for (seen, query) in seen.iter_mut().zip(tile.clone()) {
            *seen = self.seen(query, begin);
        }
        seen
    }

    /// The part of one split for a tile.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn one_split<S: Simd, F: KvFormat>(
        &self,
        s: S,
        tile: &Range<usize>,
        begin: usize,
        split: &Split<'_>,
        inputs: &[u32],
        rows: &mut [[f32; SCORES]],
        to: &mut [f32],
    ) {
        let seen = &self.seen_by(tile, begin)[..tile.len()];
        let most = seen.last().copied().unwrap_or(0);
        let mut part = Part::new(to);
        scores::<S, F>(s, split, inputs, most.div_ceil(LANES), rows);
        part.softmax::<S, F>(s, rows, seen);
        weighted::<S, F>(s, split, seen, rows, part.out);
    }

    #[inline(always)]
    fn merge<S: Simd, F: KvFormat>(
        &self,
        s: S,
        total: &mut Part<'_>,
        next: &Part<'_>,
        tile: &Range<usize>,
        begin: usize,
    ) {
        let seen = &self.seen_by(tile, begin)[..tile.len()];
        total.merge::<S, F>(s, next, seen);
    }

    /// Divides by the sums of weights and writes where the step wants it.
    #[inline(always)]
    fn write<S: Simd>(
        &self,
        s: S,
        projections: Projections<'_>,
        total: &Part<'_>,
        tile: &Range<usize>,
        out: Disjoint<'_, f32>,
    ) {
        let dim = projections.shape.head_dim;
        let (from, _) = total.out.as_chunks::<LANES>();
        let rows = from.chunks_exact(dim.div_ceil(LANES));
        let sums = s.lanes(s.div(s.splat(1.0), s.load(total.sums)));
        for ((query, row), inverse) in tile.clone().zip(rows).zip(sums) {
            let (token, head) = (query / self.shared, self.first_head + query % self.shared);
            let start = ((self.span.first + token) * projections.heads + head) * dim;
            // SAFETY: the numbers of one token and head are one task's alone.
            let to = unsafe { out.part(start..start + dim) };
            for (to, from) in to.chunks_mut(LANES).zip(row) {
                s.store_some(s.mul(s.load(from), s.splat(inverse)), to);
            }
        }
    }
}
