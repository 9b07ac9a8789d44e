//! Attention, and the writing of keys and values.

use std::marker::PhantomData;
use std::sync::atomic::AtomicBool;

use llmserve_core::BlockId;

use super::{KernelBench, Sample, allocated, best, check, failed, noise};
use crate::config::{RopeConfig, RopeScaling};
use crate::decoder::DType;
use crate::error::LoadError;
use crate::kernels::Level;
use crate::kernels::attention::{
    Agenda, Bf16, Context, F32, Geometry, KvFormat, Projections, Slot, Workspace, attend, write_kv,
};
use crate::kernels::buffer::Buffer;
use crate::kernels::rope::{RopeTable, frequencies};
use crate::pages::PageShape;
use crate::threads::{TaskPanicked, ThreadTeam};

/// Positions of a block.
const BLOCK: usize = 16;

/// A layer's heads, and what sequences ask of them in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// How keys and values are stored: [`DType::F32`] or [`DType::BF16`].
    pub kv: DType,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Dimensions of a head: an even number.
    pub head_dim: usize,
    /// How many sequences there are, all alike.
    pub sequences: usize,
    /// Positions of a sequence, the new tokens among them.
    pub context: usize,
    /// Tokens of a sequence whose queries are computed, its last ones: 1 in decoding, all of the
    /// context in a prompt that comes at once.
    pub new_tokens: usize,
}

impl AttentionShape {
    fn check(&self) -> Result<(), LoadError> {
        check(&[
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("sequences", self.sequences),
            ("context", self.context),
            ("new_tokens", self.new_tokens),
        ])?;
        let wrong = |option, reason| Err(LoadError::InvalidOption { option, reason });
        if self.kv != self.kv.kv() {
            return wrong("kv", format!("{}, expected f32 or bf16", self.kv));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, of) = (self.heads, self.kv_heads);
            return wrong("heads", format!("{heads}, expected a multiple of {of}"));
        }
        if !self.head_dim.is_multiple_of(2) {
            let dim = self.head_dim;
            return wrong("head_dim", format!("{dim}, expected an even number"));
        }
        if self.new_tokens > self.context {
            let (new, context) = (self.new_tokens, self.context);
            return wrong("new_tokens", format!("{new}, the context has {context}"));
        }
        Ok(())
    }

    /// New tokens of all sequences.
    fn tokens(&self) -> f64 {
        (self.sequences * self.new_tokens) as f64
    }

    /// Pairs of a new token and a position that it sees.
    fn pairs(&self) -> f64 {
        let (context, new) = (self.context as f64, self.new_tokens as f64);
        self.sequences as f64 * (new * context - new * (new - 1.0) / 2.0)
    }

    /// Numbers of a position's keys and values.
    fn numbers(&self) -> f64 {
        2.0 * self.kv_heads as f64 * self.head_dim as f64
    }

    /// Bytes of one of them.
    fn size(&self) -> usize {
        self.kv.bits() as usize / 8
    }
}

impl KernelBench {
    /// One layer's attention of all new tokens, keys and values being in their pages.
    ///
    /// Counted are the bytes of all sequences' keys and values, read once; and four operations for
    /// each dimension, query head and position that a new token sees: two of its score, two of the
    /// weighted sum. Softmax is not.
    ///
    /// # Errors
    /// [`LoadError::InvalidOption`] for a size that is 0 or beyond 2²⁰, for sizes that do not fit
    /// each other, and when there is no memory for them.
    pub fn attention(&mut self, shape: AttentionShape) -> Result<Sample, LoadError> {
        let seconds = self.attending(shape, Attending::attend, Attending::attend)?;
        let dimensions = (shape.heads * shape.head_dim) as f64;
        let positions = (shape.sequences * shape.context) as f64;
        Ok(Sample {
            seconds,
            bytes: positions * shape.numbers() * shape.size() as f64,
            flops: 4.0 * dimensions * shape.pairs(),
            numbers: shape.kv,
        })
    }

    /// Rotates the new tokens' keys and writes them, and the values, into their pages, of one
    /// layer.
    ///
    /// Counted are the bytes read, in `f32`, and written; and three operations for each number of
    /// a key.
    ///
    /// # Errors
    /// As [`attention`](Self::attention).
    pub fn cache_write(&mut self, shape: AttentionShape) -> Result<Sample, LoadError> {
        let seconds = self.attending(shape, Attending::write, Attending::write)?;
        let numbers = shape.tokens() * shape.numbers();
        Ok(Sample {
            seconds,
            bytes: numbers * (4 + shape.size()) as f64,
            flops: 3.0 * numbers / 2.0,
            numbers: DType::F32,
        })
    }

    /// Seconds of one call, by how keys and values are stored.
    fn attending(
        &mut self,
        shape: AttentionShape,
        f32: Call<F32>,
        bf16: Call<Bf16>,
    ) -> Result<f64, LoadError> {
        shape.check()?;
        match shape.kv {
            DType::F32 => self.time_attending(shape, f32),
            _ => self.time_attending(shape, bf16),
        }
    }

    fn time_attending<F: KvFormat>(
        &mut self,
        shape: AttentionShape,
        call: Call<F>,
    ) -> Result<f64, LoadError> {
        let blocks = shape.sequences * shape.context.div_ceil(BLOCK);
        let page = shape.numbers() as usize * BLOCK * shape.size();
        let groups = self.copies(blocks.saturating_mul(page));
        let (team, level) = (&mut self.team, self.level);
        let mut attending = Attending::<F>::try_new(team, level, shape, groups)?;
        best(self.time, |index| {
            call(&mut attending, team, level, index % groups)
        })
    }
}

/// A call for the sequences of one group.
type Call<F> = fn(&mut Attending<F>, &mut ThreadTeam, Level, usize) -> Result<(), TaskPanicked>;

/// Groups of sequences, all in the pages of one layer, and what a step of one group needs.
///
/// It alone knows the signatures of the kernels.
pub(super) struct Attending<F: KvFormat> {
    shape: AttentionShape,
    pages: PageShape,
    layer: Buffer<u32>,
    rope: RopeTable,
    /// Of each sequence, group after group.
    tables: Vec<Vec<BlockId>>,
    agenda: Agenda,
    /// Of the new tokens: query heads, key heads, value heads.
    projections: Buffer<f32>,
    workspace: Workspace,
    pub(super) out: Buffer<f32>,
    format: PhantomData<F>,
}

impl<F: KvFormat> Attending<F> {
    /// Pages for `groups` groups of the shape's sequences, every position written.
    pub(super) fn try_new(
        team: &mut ThreadTeam,
        level: Level,
        shape: AttentionShape,
        groups: usize,
    ) -> Result<Self, LoadError> {
        let &AttentionShape {
            heads,
            kv_heads,
            head_dim,
            sequences,
            context,
            new_tokens,
            ..
        } = &shape;
        let each = context.div_ceil(BLOCK);
        let blocks = allocated(each.checked_mul(sequences).and_then(|n| {
            // Blocks are numbered in 32 bits.
            let blocks = n.checked_mul(groups)?;
            u32::try_from(blocks).ok().map(|_| blocks)
        }))?;
        let pages = PageShape {
            kv_heads,
            head_dim,
            block_size: BLOCK,
            blocks,
            packed: F::PACKED,
        };
        let layer = allocated(pages.layer().and_then(Buffer::try_zeroed))?;
        let tokens = sequences * new_tokens;
        let out = tokens.checked_mul(heads * head_dim);
        let out = allocated(out.and_then(Buffer::try_zeroed))?;
        let rope = RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        };
        let mut rope = allocated(RopeTable::try_new(&frequencies(&rope, head_dim), context))?;
        (0..context).for_each(|position| rope.prepare(position));
        let tables = (0..groups * sequences)
            .map(|sequence| {
                let blocks = sequence * each..(sequence + 1) * each;
                blocks.map(|block| BlockId(block as u32)).collect()
            })
            .collect();
        let start = context - new_tokens;
        let geometry = Geometry {
            heads,
            kv_heads,
            head_dim,
            tile: level.tile_rows(shape.kv.format()),
            threads: team.threads(),
        };
        let workspace = Workspace::try_new(geometry, pages, sequences, context);
        let workspace = allocated(workspace)?;
        let mut agenda = Agenda::new(geometry, tokens, sequences, context);
        agenda.fill((0..sequences).map(|_| (new_tokens, start)));
        let width = (heads + 2 * kv_heads) * head_dim;
        // At least a block's, to fill pages with.
        let numbers = tokens.max(BLOCK).checked_mul(width);
        let mut projections = allocated(numbers.and_then(Buffer::try_zeroed))?;
        noise(&mut projections);
        let mut attending = Self {
            shape,
            pages,
            layer,
            rope,
            tables,
            agenda,
            projections,
            workspace,
            out,
            format: PhantomData,
        };
        for block in 0..blocks {
            let slots: Vec<_> = (0..BLOCK)
                .map(|slot| Slot {
                    block: block as u32,
                    slot: slot as u32,
                    position: ((block % each * BLOCK + slot) % context) as u32,
                })
                .collect();
            attending.write_slots(team, level, &slots).map_err(failed)?;
        }
        Ok(attending)
    }

    /// Attention of the new tokens of a group.
    pub(super) fn attend(
        &mut self,
        team: &mut ThreadTeam,
        level: Level,
        group: usize,
    ) -> Result<(), TaskPanicked> {
        let sequences = self.shape.sequences;
        let tables = &self.tables[group * sequences..(group + 1) * sequences];
        let tables: Vec<&[BlockId]> = tables.iter().map(Vec::as_slice).collect();
        attend::<F>(
            team,
            level,
            &self.agenda,
            Projections {
                data: &self.projections,
                heads: self.shape.heads,
                shape: self.pages,
            },
            &Context {
                tables: &tables,
                beyond: &AtomicBool::new(false),
                rope: &self.rope,
                layer: &self.layer,
            },
            &mut self.workspace,
            &mut self.out,
        )
    }

    /// Writes the keys and values of the new tokens of a group.
    fn write(
        &mut self,
        team: &mut ThreadTeam,
        level: Level,
        group: usize,
    ) -> Result<(), TaskPanicked> {
        let AttentionShape {
            sequences,
            context,
            new_tokens,
            ..
        } = self.shape;
        let tables = &self.tables[group * sequences..(group + 1) * sequences];
        let slots: Vec<_> = tables
            .iter()
            .flat_map(|table| {
                (context - new_tokens..context).map(|position| Slot {
                    block: table[position / BLOCK].0,
                    slot: (position % BLOCK) as u32,
                    position: position as u32,
                })
            })
            .collect();
        self.write_slots(team, level, &slots)
    }

    /// Writes the first projections, as many as there are slots, into the slots.
    fn write_slots(
        &mut self,
        team: &mut ThreadTeam,
        level: Level,
        slots: &[Slot],
    ) -> Result<(), TaskPanicked> {
        let projections = Projections {
            data: &self.projections,
            heads: self.shape.heads,
            shape: self.pages,
        };
        write_kv::<F>(team, level, projections, slots, &self.rope, &mut self.layer)
    }
}
