//! Causal attention over paged keys and values.
//!
//! ```text
//!  a task: a span of tokens × the heads that share a KV head, in register tiles of queries
//!
//!  positions   0 ─────────── 256 ─────────── 512 ──── …      splits, at absolute positions
//!              └ q·k ─ max ─ exp ─ sum ─ p·v ┘
//!                    part 0  ──merge──►  part 1  ──merge──►  …     in order
//! ```
//!
//! A score is one accumulation over the words of a key, an output number one over value words in
//! ascending order, and parts are merged in order. Splits begin at multiples of 256 whatever the
//! block size, and sums run lane by lane over absolute positions, so neither the block size nor the
//! queries that share the task, nor who computed which split, can be told from a result.

mod agenda;
mod format;
mod part;
mod product;
mod split;
mod task;
mod write;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use llmserve_core::BlockId;

use super::Level;
use super::buffer::Buffer;
use super::rope::RopeTable;
use crate::pages::PageShape;
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};
use task::{Formatted, Task, numbers_len, words_len};

pub(crate) use agenda::{Agenda, Geometry};
pub(crate) use format::{Bf16, F32, KvFormat};
pub(crate) use write::{Slot, write_kv};

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

/// What [`attend`] reads besides the projections.
pub(crate) struct Context<'a> {
    /// The block table of each row of the step.
    pub(crate) tables: &'a [&'a [BlockId]],
    /// Set when a table names a block that does not exist; block 0 is read in its place, and what
    /// comes out means nothing.
    pub(crate) beyond: &'a AtomicBool,
    pub(crate) rope: &'a RopeTable,
    pub(crate) layer: &'a [u32],
}

/// Memory that [`attend`] works in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Of each thread.
    numbers: Buffer<f32>,
    /// Of each thread.
    words: Buffer<u32>,
    /// What one task leaves for another one of the same queries.
    records: Buffer<f32>,
    /// Of each cut and KV head, how many of its tasks are done.
    done: Vec<AtomicUsize>,
}

impl Workspace {
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.numbers) + size_of_val(&*self.words) + size_of_val(&*self.records)
    }

    /// Memory for steps of up to `rows` rows of up to `positions` positions each; nothing if it is
    /// not to be had.
    pub(crate) fn try_new(
        geometry: Geometry,
        shape: PageShape,
        rows: usize,
        positions: usize,
    ) -> Option<Self> {
        let threads = geometry.threads;
        Some(Self {
            numbers: Buffer::try_zeroed(threads.checked_mul(numbers_len(geometry))?)?,
            words: Buffer::try_zeroed(threads.checked_mul(words_len(geometry, shape))?)?,
            records: Buffer::try_zeroed(geometry.records(rows, positions)?)?,
            done: Vec::with_capacity(geometry.most_cuts() * geometry.kv_heads),
        })
    }
}

/// Computes the attention of all tokens of the step for which `agenda` was filled into `out`:
/// row-major, all query heads of a token after each other.
pub(crate) fn attend<F: KvFormat>(
    team: &mut ThreadTeam,
    level: Level,
    agenda: &Agenda,
    projections: Projections<'_>,
    context: &Context<'_>,
    workspace: &mut Workspace,
    out: &mut [f32],
) -> Result<(), TaskPanicked> {
    let geometry = agenda.geometry();
    let (kv_heads, works) = (geometry.kv_heads, agenda.works());
    let (numbers_len, words_len) = (
        numbers_len(geometry),
        words_len(geometry, projections.shape),
    );
    let Workspace {
        numbers,
        words,
        records,
        done,
    } = workspace;
    done.clear();
    done.resize_with(agenda.cuts().len() * kv_heads, AtomicUsize::default);
    let (numbers, words) = (Disjoint::new(numbers), Disjoint::new(words));
    let (records, out) = (Disjoint::new(records), Disjoint::new(out));
    team.run(works.len() * kv_heads, |task, worker| {
        // SAFETY: a worker index belongs to one thread at a time.
        let numbers = unsafe { numbers.part(worker * numbers_len..(worker + 1) * numbers_len) };
        // SAFETY: as above.
        let words = unsafe { words.part(worker * words_len..(worker + 1) * words_len) };
        level.run(Formatted {
            task: Task {
                projections,
                context,
                agenda,
                work: &works[task / kv_heads],
                kv_head: task % kv_heads,
                numbers,
                words,
                records,
                done,
                out,
            },
            format: PhantomData::<F>,
        });
    })
}

#[cfg(test)]
mod tests;
