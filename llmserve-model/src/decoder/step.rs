//! One step: from a batch to logits.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use llmserve_core::{Batch, BatchRow, BlockId, Logits, ModelError, StepLimits};

use super::batch::{Plan, table_names};
use super::embedding::Embedding;
use super::logits::CpuLogits;
use super::{CpuModel, DType, Layer, Prepared};
use crate::config::DecoderConfig;
use crate::kernels::Level;
use crate::kernels::attention::{
    Bf16, Context, F32, Geometry, KvFormat, Projections, Workspace, attend, write_kv,
};
use crate::kernels::buffer::Buffer;
use crate::kernels::embed::embed;
use crate::kernels::gemm::{Output, Put, gemm};
use crate::kernels::inputs::{Inputs, RmsNorm, Source};
use crate::kernels::packed::Packed;
use crate::kernels::rope::RopeTable;
use crate::kernels::survey::survey;
use crate::kernels::tiling::Tiling;
use crate::pages::PageShape;
use crate::threads::{TaskPanicked, ThreadTeam};

/// Rows that are between the two halves of a feed-forward layer at a time.
const INNER_ROWS: usize = 512;

/// A step's intermediate results, sized for the largest batch.
#[derive(Debug)]
pub(super) struct Buffers {
    /// The residual stream, row-major.
    x: Buffer<f32>,
    /// Queries, keys and values, row-major.
    qkv: Buffer<f32>,
    /// What attention gives, row-major.
    mixed: Buffer<f32>,
    /// What the gated unit gives, row-major, of some rows at a time.
    gated: Buffer<f32>,
    /// The rows of one product at a time.
    inputs: Inputs,
    /// What attention works in.
    workspace: Workspace,
}

impl Buffers {
    pub(super) fn bytes(&self) -> usize {
        let rows = [&self.x, &self.qkv, &self.mixed, &self.gated];
        let rows = rows.map(|buffer| size_of_val(&**buffer));
        rows.iter().sum::<usize>() + self.inputs.bytes() + self.workspace.bytes()
    }

    pub(super) fn new(
        config: &DecoderConfig,
        dtype: DType,
        geometry: Geometry,
        shape: PageShape,
        limits: StepLimits,
        positions: usize,
    ) -> Result<Self, ModelError> {
        let refused = || {
            ModelError::Prepare(format!(
                "no memory for steps of {} tokens: lower the limit",
                limits.tokens
            ))
        };
        let make = |rows: usize, width: usize| {
            let len = rows.checked_mul(width);
            len.and_then(Buffer::try_zeroed).ok_or_else(refused)
        };
        let inner_rows = limits.tokens.min(INNER_ROWS);
        let inputs = [
            (limits.tokens, config.hidden_size),
            (limits.tokens, config.num_heads * config.head_dim),
            (inner_rows, config.intermediate_size),
        ];
        let heads = config.num_heads + 2 * config.num_kv_heads;
        Ok(Self {
            x: make(limits.tokens, config.hidden_size)?,
            qkv: make(limits.tokens, heads * config.head_dim)?,
            mixed: make(limits.tokens, config.num_heads * config.head_dim)?,
            gated: make(inner_rows, config.intermediate_size)?,
            inputs: Inputs::try_new(&inputs, dtype.format()).ok_or_else(refused)?,
            workspace: Workspace::try_new(geometry, shape, limits.rows, positions)
                .ok_or_else(refused)?,
        })
    }
}

/// What the layers of one step share.
struct Step<'a> {
    config: &'a DecoderConfig,
    level: Level,
    team: &'a mut ThreadTeam,
    plan: &'a Plan,
    /// Tokens that are still computed: the first so many rows of every buffer.
    rows: usize,
    tables: &'a [&'a [BlockId]],
    /// Whether attention met a block that does not exist.
    beyond: AtomicBool,
    rope: &'a RopeTable,
    shape: PageShape,
    buffers: &'a mut Buffers,
}

/// The error for the block that attention met in a table and that does not exist.
fn block_beyond(rows: &[BatchRow], tables: &[&[BlockId]], blocks: usize) -> ModelError {
    let bad = rows
        .iter()
        .zip(tables)
        .enumerate()
        .find_map(|(index, (row, table))| {
            let block = table.iter().find(|block| block.index() >= blocks)?;
            Some((index, row.sequence, block.0))
        });
    ModelError::InvalidBatch(match bad {
        Some((index, sequence, block)) => table_names(index, sequence, block, blocks),
        None => format!("a table names a block beyond the {blocks} there are"),
    })
}

fn panicked(panic: TaskPanicked) -> ModelError {
    ModelError::Backend(panic.to_string())
}

impl CpuModel {
    pub(super) fn step(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        let Some(prepared) = &mut self.prepared else {
            return Err(ModelError::InvalidBatch(
                "the model has no pages yet: call `prepare` first".to_owned(),
            ));
        };
        let Prepared {
            limits,
            pages,
            rope,
            buffers,
            plan,
            pool,
        } = prepared;
        let shape = pages.shape();
        let vocab = self.config.vocab_size;
        let tables = plan.fill(batch, vocab, rope.positions(), shape, *limits)?;
        for slot in &plan.slots {
            rope.prepare(slot.position as usize);
        }
        let mut logits = pool.take(plan.wanted.len())?;
        let mut team = self.team.lock();
        let mut step = Step {
            config: &self.config,
            level: self.level,
            team: &mut team,
            plan,
            rows: plan.ids.len(),
            tables: &tables,
            beyond: AtomicBool::new(false),
            rope,
            shape,
            buffers,
        };
        let result = step
            .embed(&mut self.embedding)
            .and_then(|()| match self.dtype.kv() {
                DType::F32 => step.layers::<F32>(&self.layers, &mut pages.layers),
                _ => step.layers::<Bf16>(&self.layers, &mut pages.layers),
            })
            .and_then(|()| step.head(&self.head, &mut logits));
        let beyond = step.beyond.into_inner();
        let named = beyond.then(|| block_beyond(batch.rows, &tables, shape.blocks));
        plan.recycle(tables);
        result.map_err(panicked)?;
        if let Some(error) = named {
            return Err(error);
        }
        Ok(Box::new(logits))
    }
}

impl Step<'_> {
    /// The embedding's rows of all tokens.
    fn embed(&mut self, embedding: &mut Embedding) -> Result<(), TaskPanicked> {
        let hidden = self.config.hidden_size;
        let rows = self.buffers.x.chunks_mut(Embedding::ROWS * hidden);
        for (ids, x) in self.plan.ids.chunks(Embedding::ROWS).zip(rows) {
            let (bytes, dtype) = (embedding.bytes(), embedding.dtype());
            embed(self.team, bytes, dtype, ids, hidden, x)?;
            embedding.read(ids.len());
        }
        Ok(())
    }

    fn layers<F: KvFormat>(
        &mut self,
        layers: &[Layer],
        pages: &mut [Buffer<u32>],
    ) -> Result<(), TaskPanicked> {
        for (index, (layer, pages)) in layers.iter().zip(pages).enumerate() {
            let last = index + 1 == layers.len();
            self.keys_and_values::<F>(layer, pages)?;
            // In the middle of a prompt the last layer's keys and values are all that is needed,
            // and at its end one more row.
            if last && self.plan.wanted.is_empty() {
                break;
            }
            self.attention::<F>(pages)?;
            if last {
                self.keep_wanted();
            }
            self.product(
                &layer.output,
                0..self.rows,
                Stream::Mixed,
                Stream::X,
                Put::Add,
            )?;
            self.feed_forward(layer)?;
        }
        Ok(())
    }

    /// Leaves only the tokens whose logits are wanted, in the first rows.
    fn keep_wanted(&mut self) {
        let Buffers { x, mixed, .. } = &mut *self.buffers;
        let (hidden, width) = (
            self.config.hidden_size,
            self.config.num_heads * self.config.head_dim,
        );
        // In order, and none before its new place: nothing is overwritten that is still wanted.
        for (to, &from) in self.plan.wanted.iter().enumerate() {
            if to != from {
                x.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
                mixed.copy_within(from * width..(from + 1) * width, to * width);
            }
        }
        self.rows = self.plan.wanted.len();
    }

    /// Projects all tokens and writes their keys and values.
    fn keys_and_values<F: KvFormat>(
        &mut self,
        layer: &Layer,
        pages: &mut [u32],
    ) -> Result<(), TaskPanicked> {
        self.product(&layer.qkv, 0..self.rows, Stream::X, Stream::Qkv, Put::Store)?;
        let projections = Projections {
            data: &self.buffers.qkv,
            heads: self.config.num_heads,
            shape: self.shape,
        };
        write_kv::<F>(
            self.team,
            self.level,
            projections,
            &self.plan.slots,
            self.rope,
            pages,
        )
    }

    fn attention<F: KvFormat>(&mut self, pages: &[u32]) -> Result<(), TaskPanicked> {
        let projections = Projections {
            data: &self.buffers.qkv,
            heads: self.config.num_heads,
            shape: self.shape,
        };
        attend::<F>(
            self.team,
            self.level,
            &self.plan.agenda,
            projections,
            &Context {
                tables: self.tables,
                beyond: &self.beyond,
                rope: self.rope,
                layer: pages,
            },
            &mut self.buffers.workspace,
            &mut self.buffers.mixed,
        )
    }

    fn feed_forward(&mut self, layer: &Layer) -> Result<(), TaskPanicked> {
        let put = Put::Gated(self.config.activation);
        // By parts, as the inner rows are the widest of all.
        for begin in (0..self.rows).step_by(INNER_ROWS) {
            let rows = begin..self.rows.min(begin + INNER_ROWS);
            self.product(&layer.gate_up, rows.clone(), Stream::X, Stream::Gated, put)?;
            self.product(&layer.down, rows, Stream::Gated, Stream::X, Put::Add)?;
        }
        Ok(())
    }

    /// Multiplies some rows of one buffer with `weights` into another. The residual stream is
    /// normalised on the way in; inner rows lie at the beginning of theirs.
    fn product(
        &mut self,
        weights: &Packed,
        rows: Range<usize>,
        from: Stream,
        to: Stream,
        put: Put,
    ) -> Result<(), TaskPanicked> {
        let Buffers {
            x,
            qkv,
            mixed,
            gated,
            inputs,
            ..
        } = &mut *self.buffers;
        let norm = (from == Stream::X).then_some(RmsNorm {
            eps: self.config.norm_eps,
        });
        let first = |stream| match stream {
            Stream::Gated => 0,
            _ => rows.start,
        };
        let data: &[f32] = match from {
            Stream::X => x,
            Stream::Qkv => qkv,
            Stream::Mixed => mixed,
            Stream::Gated => gated,
        };
        let source = Source {
            data: &data[first(from) * weights.depth..],
            norm,
        };
        let tiling = Tiling::new(rows.len(), self.level.tile_rows(weights.format));
        let filled = inputs.fill(self.team, self.level, weights, tiling, source)?;
        let stride = weights.columns;
        let out: &mut [f32] = match to {
            Stream::X => x,
            Stream::Qkv => qkv,
            Stream::Mixed => mixed,
            Stream::Gated => gated,
        };
        let output = Output {
            out: &mut out[first(to) * stride..],
            stride,
            put,
        };
        gemm(self.team, self.level, filled, weights, output)
    }

    /// The logits of the rows that are left, and their surveys.
    fn head(&mut self, head: &Packed, logits: &mut CpuLogits) -> Result<(), TaskPanicked> {
        let (logits, surveys) = logits.all();
        let tiling = Tiling::new(self.plan.wanted.len(), self.level.tile_rows(head.format));
        let Buffers { x, inputs, .. } = &mut *self.buffers;
        let source = Source {
            data: x,
            norm: Some(RmsNorm {
                eps: self.config.norm_eps,
            }),
        };
        let rows = inputs.fill(self.team, self.level, head, tiling, source)?;
        let output = Output {
            out: &mut *logits,
            stride: head.columns,
            put: Put::Store,
        };
        gemm(self.team, self.level, rows, head, output)?;
        survey(self.team, self.level, logits, head.columns, surveys)
    }
}

/// A buffer that products read or write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    X,
    Qkv,
    Mixed,
    Gated,
}
