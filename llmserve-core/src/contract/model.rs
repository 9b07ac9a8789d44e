//! What a model must do: one call for prefill, chunked prefill, decode and verification.
//!
//! ```text
//!  tokens  [ p p p p p p p p │ d │ d │ p p p ]      one flat array
//!  rows      └── seq 4 ────┘  └┬┘ └┬┘ └seq 9┘       (sequence, start, offset, len)
//!  tables    seq → [block, block, …] per KV group   asked by need, never copied
//!  logits                  ▲   ▲   ▲                which positions want them
//! ```

use super::kv::{BlockTables, KvLayout};
use crate::ids::{BlockId, GroupId, SequenceId, TokenId};
use crate::sampling::Survey;

/// The KV that one group of layers needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvGroupSpec {
    /// Bytes of keys and values of one token, over all layers of the group.
    pub bytes_per_token: usize,
    /// Names dtype and arrangement; part of every block's identity.
    pub layout: String,
}

impl KvGroupSpec {
    /// A group of full-attention layers.
    pub fn full(bytes_per_token: usize, layout: impl Into<String>) -> Self {
        Self {
            bytes_per_token,
            layout: layout.into(),
        }
    }
}

/// The KV groups of a model; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Groups, by [`GroupId`].
    pub groups: Vec<KvGroupSpec>,
}

/// What a model is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The name metrics and answers carry.
    pub name: String,
    /// Length of a row of logits.
    pub vocab_size: usize,
    /// Most positions of a sequence.
    pub max_context: usize,
    /// Tokens that end a sequence.
    pub eos: Vec<TokenId>,
    /// 128 bits that differ when the weights do.
    pub fingerprint: u128,
    /// KV groups.
    pub kv: KvSpec,
    /// What computes and how, for logs: device, dtype, kernel level, threads.
    pub backend: String,
}

impl ModelInfo {
    /// A model with one full-attention group and no end token.
    pub fn new(
        name: impl Into<String>,
        vocab_size: usize,
        max_context: usize,
        group: KvGroupSpec,
    ) -> Self {
        Self {
            name: name.into(),
            vocab_size,
            max_context,
            eos: Vec::new(),
            fingerprint: 0,
            kv: KvSpec {
                groups: vec![group],
            },
            backend: String::new(),
        }
    }
}

/// Bounds of every batch, told once so that a model can size its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Most tokens in a batch.
    pub tokens: usize,
    /// Most rows in a batch.
    pub rows: usize,
    /// Most rows of logits that batches commonly ask for: one for each row, and one for each draft
    /// that may be verified. One with prompt logprobs may ask for more, up to [`tokens`](Self::tokens).
    pub logits: usize,
}

/// Which positions of a row want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsWanted {
    /// None: a chunk in the middle of a prompt.
    None,
    /// The last one: a token will be sampled after it.
    Last,
    /// All: prompt logprobs, or drafts to verify.
    All,
}

/// One sequence's share of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// Whose tokens.
    pub sequence: SequenceId,
    /// Position of the first token.
    pub start: usize,
    /// Where the row's tokens start in [`Batch::tokens`].
    pub offset: usize,
    /// How many there are; at least 1.
    pub len: usize,
    /// Which positions want logits.
    pub logits: LogitsWanted,
}

/// A ragged batch.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// All rows' tokens.
    pub tokens: &'a [TokenId],
    /// The rows. No sequence has two.
    pub rows: &'a [BatchRow],
    /// Where each sequence's keys and values live. Covers every row up to `start + len`.
    pub tables: &'a dyn BlockTables,
}

impl Batch<'_> {
    /// Rows of logits the batch asks for.
    pub fn logits_rows(&self) -> usize {
        self.rows
            .iter()
            .map(|row| match row.logits {
                LogitsWanted::None => 0,
                LogitsWanted::Last => 1,
                LogitsWanted::All => row.len,
            })
            .sum()
    }
}

/// A failure inside a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The batch breaks the contract or exceeds the limits told.
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// The layout or limits cannot be honoured.
    #[error("the model cannot be prepared: {0}")]
    Prepare(String),
    /// The backend failed.
    #[error("the model failed: {0}")]
    Backend(String),
}

/// The result of a step, perhaps still being computed.
///
/// Rows are in batch order: a row that asked for [`LogitsWanted::Last`] has one, one that asked
/// for [`LogitsWanted::All`] has its length.
pub trait Logits: Send {
    /// How many rows there are.
    fn rows(&self) -> usize;

    /// Waits for row `index` and returns it: one logit for each token of the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Backend`] when the step failed after it was submitted.
    fn row(&mut self, index: usize) -> Result<&[f32], ModelError>;

    /// Waits for row `index` and puts its survey into `survey`, over what was there: what sampling
    /// has to know of every logit. It is asked for once before the row is, by the same thread.
    ///
    /// Provided, by reading the row. A model with faster ways to read all of it, more threads or
    /// the device that holds it, overrides this with [`Survey::fill`]; so should one that wraps
    /// another. A survey must be exactly that of the row: of one that is not, some are answered
    /// with [`ModelError::Backend`], which fails the step, and with debug assertions all are.
    ///
    /// # Errors
    /// As [`row`](Self::row).
    fn survey(&mut self, index: usize, survey: &mut Survey) -> Result<(), ModelError> {
        survey.take(self.row(index)?);
        Ok(())
    }
}

/// The physical KV pages, as bytes.
pub trait PageStore {
    /// Bytes of one page of `group`.
    fn page_bytes(&self, group: GroupId) -> usize;

    /// Copies the first `slots` positions of a page to another.
    ///
    /// # Errors
    /// [`ModelError::InvalidBatch`] for a page or slot that does not exist.
    fn copy(
        &mut self,
        group: GroupId,
        from: BlockId,
        to: BlockId,
        slots: usize,
    ) -> Result<(), ModelError>;

    /// Appends a page's bytes to `out`.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    fn read(&self, group: GroupId, block: BlockId, out: &mut Vec<u8>) -> Result<(), ModelError>;

    /// Overwrites a page with bytes that [`read`](Self::read) gave.
    ///
    /// # Errors
    /// As [`copy`](Self::copy), and for a wrong number of bytes.
    fn write(&mut self, group: GroupId, block: BlockId, bytes: &[u8]) -> Result<(), ModelError>;
}

/// A language model behind the engine.
///
/// A row's logits depend on its tokens and positions alone, bit for bit: never on the other rows,
/// on how its prompt was cut into chunks, or on the number of threads.
pub trait Model: Send {
    /// What the model is.
    fn info(&self) -> &ModelInfo;

    /// Makes the physical pages and buffers. Called once, before the first step.
    ///
    /// # Errors
    /// [`ModelError::Prepare`].
    fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError>;

    /// Bytes of memory that the model takes: weights, pages and buffers, those included that it has
    /// yet to touch; without [`prepare`](Self::prepare) the weights alone. Provided: 0, of one
    /// that cannot tell.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// Writes the keys and values of every token of the batch and computes the logits asked for.
    /// Within a layer all keys and values are written before any is read, so rows may share
    /// blocks that this very step fills.
    ///
    /// # Errors
    /// [`ModelError`]; the pages written by the batch are then undefined.
    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError>;

    /// The physical pages.
    fn pages(&mut self) -> &mut dyn PageStore;
}
