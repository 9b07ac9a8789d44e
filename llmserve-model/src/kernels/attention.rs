//! Causal attention over paged keys and values.
//!
//! ```text
//!  a task: up to 8 queries (neighbouring tokens × the heads that share a KV head)
//!
//!  positions   0 ─────────── 256 ─────────── 512 ──── …      splits, at absolute positions
//!              └ scores ─ max ─ exp ─ sum ─ Σ p·v ┘
//!                    part 0  ──merge──►  part 1  ──merge──►  …     in order
//! ```
//!
//! A score is one accumulation over the head's dimensions, an output number one over positions in
//! ascending order, and parts are merged in order (the online softmax of Milakov and Gimelshein,
//! 2018). Splits begin at multiples of 256 whatever the block size, and sums run lane by lane over
//! absolute positions, so neither the block size nor the queries that share the task can be told
//! from a result.

mod query;
mod values;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;
use llmserve_core::BlockId;

use super::buffer::Number;
use super::rope::RopeTable;
use super::simd::{LANES, Simd};
use super::tiling::Tiling;
use super::{Kernel, Level};
use crate::pages::PageShape;
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// Positions of a split.
pub(super) const SPLIT: usize = 256;
/// Most queries that share one reading of keys and values.
pub(super) const QUERIES: usize = 8;
/// Scores of one query in one split, with room for a vector that sticks out.
pub(super) const SCORES: usize = SPLIT + LANES;

/// A key's or value's number as it lies in a page.
pub(crate) trait KvNumber: Number {
    /// Sixteen of them, widened.
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
    /// Widened.
    fn wide(self) -> f32;
    /// Rounded to nearest, ties to even.
    fn narrow(x: f32) -> Self;
}

impl KvNumber for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load(from)
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }
}

/// A bf16 number's bits.
impl KvNumber for u16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.widen(from)
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        bf16::from_f32(x).to_bits()
    }
}

/// Neighbouring tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Which table.
    pub(crate) row: usize,
    /// Index of the first token in the step.
    pub(crate) first: usize,
    /// How many.
    pub(crate) len: usize,
    /// Position of the first token.
    pub(crate) position: usize,
}

/// Where a token's key and value go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) block: u32,
    pub(crate) slot: u32,
    pub(crate) position: u32,
}

/// The projections of a step's tokens, row by row: query heads, key heads, value heads.
#[derive(Clone, Copy)]
pub(crate) struct Projections<'a> {
    pub(crate) data: &'a [f32],
    /// Query heads.
    pub(crate) heads: usize,
    pub(crate) shape: PageShape,
}

impl<'a> Projections<'a> {
    #[inline(always)]
    fn head(&self, token: usize, head: usize) -> &'a [f32] {
        let width = (self.heads + 2 * self.shape.kv_heads) * self.shape.head_dim;
        let at = token * width + head * self.shape.head_dim;
        &self.data[at..at + self.shape.head_dim]
    }
}

/// Writes the rotated keys, and the values, of all tokens into `layer`.
pub(crate) fn write_kv<E: KvNumber>(
    team: &mut ThreadTeam,
    projections: Projections<'_>,
    slots: &[Slot],
    rope: &RopeTable,
    layer: &mut [E],
) -> Result<(), TaskPanicked> {
    let Projections { heads, shape, .. } = projections;
    let layer = Disjoint::new(layer);
    let (dim, size) = (shape.head_dim, shape.block_size);
    let write = |head: usize| {
        for (token, slot) in slots.iter().enumerate() {
            let (block, at) = (slot.block as usize, slot.slot as usize);
            let key = projections.head(token, heads + head);
            let start = shape.keys(block, head) + at;
            rope.rotate(slot.position as usize, key, |d, x| {
                // SAFETY: a head's part of every page belongs to this head's task alone.
                unsafe { layer.write(start + d * size, E::narrow(x)) };
            });
            let value = projections.head(token, heads + shape.kv_heads + head);
            let start = shape.values(block, head) + at * dim;
            // SAFETY: a head's part of every page belongs to this head's task alone.
            let to = unsafe { layer.part(start..start + dim) };
            for (to, &x) in to.iter_mut().zip(value) {
                *to = E::narrow(x);
            }
        }
    };
    // Waking threads costs more than a few thousand numbers.
    if slots.len() * shape.kv_heads * dim < 4096 {
        return team.run(1, |_, _| (0..shape.kv_heads).for_each(write));
    }
    team.run(shape.kv_heads, |head, _| write(head))
}

/// What [`attend`] reads besides the projections.
pub(crate) struct Context<'a, E> {
    pub(crate) spans: &'a [Span],
    /// The block table of each row of the step.
    pub(crate) tables: &'a [&'a [BlockId]],
    /// Set when a table names a block that does not exist; block 0 is read in its place, and what
    /// comes out means nothing.
    pub(crate) beyond: &'a AtomicBool,
    pub(crate) rope: &'a RopeTable,
    pub(crate) layer: &'a [E],
}

/// Numbers of scratch memory that each thread needs.
pub(crate) fn scratch_len(head_dim: usize) -> usize {
    QUERIES * (3 * head_dim + SCORES)
}

/// Tokens that share a task, so that with their heads they make at most [`QUERIES`] queries.
pub(crate) fn span_len(heads: usize, kv_heads: usize) -> usize {
    (QUERIES / (heads / kv_heads.max(1)).max(1)).max(1)
}

/// Computes every span's attention into `out`, interleaved by `tiling`, as wide as all query heads.
/// Spans are at most [`span_len`] long. `scratch` holds [`scratch_len`] numbers for each thread.
pub(crate) fn attend<E: KvNumber>(
    team: &mut ThreadTeam,
    level: Level,
    projections: Projections<'_>,
    context: &Context<'_, E>,
    tiling: Tiling,
    scratch: &mut [f32],
    out: &mut [f32],
) -> Result<(), TaskPanicked> {
    let Projections { heads, shape, .. } = projections;
    let shared = heads / shape.kv_heads;
    // A group of more heads than queries is cut into equal parts.
    let parts = shared.div_ceil(QUERIES);
    let each = shared.div_ceil(parts);
    let share = scratch_len(shape.head_dim);
    let (scratch, out) = (Disjoint::new(scratch), Disjoint::new(out));
    let tasks = shape.kv_heads * parts;
    team.run(context.spans.len() * tasks, |task, worker| {
        let (span, task) = (context.spans[task / tasks], task % tasks);
        let (kv_head, part) = (task / parts, task % parts);
        let first = kv_head * shared + part * each;
        let heads = first..(first + each).min((kv_head + 1) * shared);
        // SAFETY: a worker index belongs to one thread at a time.
        let scratch = unsafe { scratch.part(worker * share..(worker + 1) * share) };
        level.run(Task {
            projections,
            context,
            span,
            kv_head,
            heads,
            tiling,
            scratch,
            out,
        });
    })
}

/// One span and some of the heads that share a KV head.
struct Task<'a, E> {
    projections: Projections<'a>,
    context: &'a Context<'a, E>,
    span: Span,
    kv_head: usize,
    heads: Range<usize>,
    tiling: Tiling,
    scratch: &'a mut [f32],
    out: Disjoint<'a, f32>,
}

impl<E> Task<'_, E> {
    /// The block and the slot of a position, the block checked to exist.
    #[inline(always)]
    fn locate(&self, position: usize) -> (usize, usize) {
        let shape = self.projections.shape;
        let table = self.context.tables[self.span.row];
        let block = table[position / shape.block_size].index();
        let slot = position % shape.block_size;
        if block < shape.blocks {
            return (block, slot);
        }
        self.context.beyond.store(true, Ordering::Relaxed);
        (0, slot)
    }
}

impl<E: KvNumber> Kernel for Task<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.heads.len() * self.span.len {
            1 => self.queries::<S, 1>(s),
            2 => self.queries::<S, 2>(s),
            3 => self.queries::<S, 3>(s),
            4 => self.queries::<S, 4>(s),
            5 => self.queries::<S, 5>(s),
            6 => self.queries::<S, 6>(s),
            7 => self.queries::<S, 7>(s),
            8 => self.queries::<S, 8>(s),
            other => debug_assert!(other == 0, "{other} queries in one task"),
        }
    }
}

#[cfg(test)]
mod tests;
