//! The decoder on the CPU: a Llama-family forward pass over one ragged batch and one paged cache.
//!
//! ```text
//!  tokens ─ embedding rows, straight from the file ─► x          (residual stream, f32)
//!  each layer:   x ─ norm ─► q k v ─ rotate ─► pages ─ attention ─ output ─┐
//!                └───────────────────────────── + ◄───────────────────────┘
//!                x ─ norm ─► gate, up ─ activation(gate)·up ─ down ─┐
//!                └─────────────── + ◄──────────────────────────────┘
//!  rows that want logits ─ norm ─ head ─► logits
//! ```
//!
//! Each arrow is a job or two of the model's own [`ThreadTeam`](crate::ThreadTeam); between two of them
//! lies a barrier, so all keys and values of a layer are in their pages before any is read.
//! Between products activations are `f32`; [`DType`] says in what numbers products are computed, and
//! how weights and pages are stored.

mod batch;
mod build;
mod embedding;
mod fingerprint;
mod logits;
mod options;
mod packed;
mod slab;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use llmserve_core::{Batch, KvLayout, Logits, Model, ModelError, ModelInfo, PageStore, StepLimits};
use parking_lot::Mutex;

use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::kernels::Level;
use crate::kernels::attention::Geometry;
use crate::kernels::packed::Packed;
use crate::kernels::rope::RopeTable;
use crate::kernels::stored::Stored;
use crate::pages::{PageShape, Pages, packed};
use crate::threads::ThreadTeam;
use crate::weights::Weights;
use batch::Plan;
use embedding::Embedding;
use logits::LogitsPool;
use slab::Slab;
use step::Buffers;

pub(crate) use options::by_name;
pub use options::{CpuOptions, DType};
pub(crate) use packed::PackedFile;

/// A decoder that computes on the CPU.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use llmserve_core::{
///     Batch, BatchRow, BlockId, BlockTables, GroupId, KvLayout, LogitsWanted, Model, SequenceId,
///     StepLimits,
/// };
/// use llmserve_model::{CpuModel, CpuOptions, DecoderConfig, Weights};
///
/// /// One sequence that owns the first two blocks.
/// struct Tables;
/// impl BlockTables for Tables {
///     fn table(&self, _: SequenceId, _: GroupId) -> &[BlockId] {
///         &[BlockId(0), BlockId(1)]
///     }
/// }
///
/// # let dir = std::path::Path::new("tests/goldens/llama");
/// let config = DecoderConfig::from_dir(dir)?;
/// let weights = Arc::new(Weights::open(dir)?);
/// let mut model = CpuModel::build(&config, weights, &CpuOptions::default())?;
/// model.prepare(&KvLayout { block_size: 16, blocks: vec![4] }, StepLimits { tokens: 8, rows: 1, logits: 1 })?;
///
/// let row = BatchRow {
///     sequence: SequenceId::new(0, 0),
///     start: 0,
///     offset: 0,
///     len: 3,
///     logits: LogitsWanted::Last,
/// };
/// let batch = Batch { tokens: &[5, 6, 7], rows: &[row], tables: &Tables };
/// let mut logits = model.submit(&batch)?;
/// assert_eq!(logits.row(0)?.len(), config.vocab_size);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CpuModel {
    info: ModelInfo,
    config: DecoderConfig,
    dtype: DType,
    level: Level,
    team: Arc<Mutex<ThreadTeam>>,
    /// Of the checkpoint's files, wherever the words are now.
    stamp: u128,
    embedding: Embedding,
    /// All matrices below, one after the other.
    words: Stored<u32>,
    layers: Vec<Layer>,
    head: Packed,
    frequencies: Vec<f32>,
    prepared: Option<Prepared>,
    /// Stands in for the pages before there are any.
    no_pages: Pages,
}

#[derive(Debug)]
struct Layer {
    qkv: Packed,
    output: Packed,
    gate_up: Packed,
    down: Packed,
}

/// What exists once the layout and the limits are known.
#[derive(Debug)]
struct Prepared {
    limits: StepLimits,
    pages: Pages,
    rope: RopeTable,
    buffers: Buffers,
    plan: Plan,
    pool: Arc<LogitsPool>,
}

impl Prepared {
    fn bytes(&self) -> usize {
        self.pages.bytes() + self.rope.bytes() + self.buffers.bytes() + self.pool.bytes()
    }
}

impl CpuModel {
    /// What the model computes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Computes with `other`'s threads from now on, and lets its own go. For two models that take
    /// turns, as a draft model and its target do: threads of one that wait for more work would be in
    /// the way of the other's. To be called before [`prepare`](Model::prepare); what was prepared is
    /// forgotten.
    pub fn share_threads(&mut self, other: &Self) {
        self.prepared = None;
        self.team = Arc::clone(&other.team);
        let threads = self.team.lock().threads();
        self.info.backend = build::backend(self.dtype, self.level, threads);
    }

    /// About the bytes that the weights of a model take in memory once it is built of them, before
    /// anything of it is: [`Model::memory_bytes`] less what `prepare` adds.
    pub(crate) fn weights_bytes(
        config: &DecoderConfig,
        weights: &Weights,
        dtype: DType,
    ) -> Result<u64, LoadError> {
        config.validate()?;
        let embedding = [config.vocab_size, config.hidden_size];
        let embedding = weights.tensor(slab::EMBEDDING, &embedding)?.bytes.len();
        Ok(Slab::new(config, dtype)?.bytes() + Embedding::most_resident(embedding) as u64)
    }

    /// Bytes of packed weights, scales included: what a decode step reads of them.
    pub fn packed_bytes(&self) -> usize {
        let layer = |l: &Layer| [&l.qkv, &l.output, &l.gate_up, &l.down].map(Packed::bytes);
        let layers = self.layers.iter().flat_map(layer).sum::<usize>();
        layers + self.head.bytes()
    }
}

impl Model for CpuModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
        // The old pages go first, should there be any: two sets may not fit.
        self.prepared = None;
        let &[blocks] = layout.blocks.as_slice() else {
            return Err(ModelError::Prepare(format!(
                "the layout has {} KV groups, the model has 1",
                layout.blocks.len()
            )));
        };
        let capacity = blocks.checked_mul(layout.block_size);
        let capacity = match capacity {
            Some(capacity) if capacity > 0 && u32::try_from(capacity).is_ok() => capacity,
            _ => {
                return Err(ModelError::Prepare(format!(
                    "{blocks} blocks of {} tokens: expected at least one and fewer than 2^32 tokens",
                    layout.block_size
                )));
            }
        };
        if limits.tokens == 0 || limits.rows == 0 {
            return Err(ModelError::Prepare(format!(
                "limits of {} tokens and {} rows: a step needs at least one of each",
                limits.tokens, limits.rows
            )));
        }
        let config = &self.config;
        let shape = PageShape {
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            block_size: layout.block_size,
            blocks,
            packed: packed(self.dtype.kv()),
        };
        let pages = Pages::new(shape, config.num_layers)?;
        // No sequence is longer than all blocks together.
        let positions = config.max_position.min(capacity);
        let rope = RopeTable::try_new(&self.frequencies, positions).ok_or_else(|| {
            ModelError::Prepare(format!(
                "no memory for the rotary embedding of {positions} positions: ask for fewer blocks"
            ))
        })?;
        let geometry = Geometry {
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            tile: self.level.tile_rows(self.dtype.kv().format()),
            threads: self.team.lock().threads(),
        };
        // Each row has a token at least.
        let most = StepLimits {
            rows: limits.rows.min(limits.tokens),
            logits: limits.logits.clamp(1, limits.tokens),
            ..limits
        };
        self.prepared = Some(Prepared {
            limits,
            pages,
            rope,
            buffers: Buffers::new(config, self.dtype, geometry, shape, most, positions)?,
            plan: Plan::new(geometry, most, positions),
            pool: LogitsPool::new(config.vocab_size, most.logits)?,
        });
        Ok(())
    }

    /// Packed weights, mapped ones as well, and what of the embedding may be resident; once it is
    /// prepared, pages and buffers.
    fn memory_bytes(&self) -> u64 {
        let weights = size_of_val(&*self.words) + self.embedding.resident_bytes();
        let prepared = self.prepared.as_ref().map_or(0, Prepared::bytes);
        (weights + prepared) as u64
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        self.step(batch)
    }

    fn pages(&mut self) -> &mut dyn PageStore {
        match &mut self.prepared {
            Some(prepared) => &mut prepared.pages,
            None => &mut self.no_pages,
        }
    }
}
