//! From tokens to vectors.
//!
//! ```text
//!  tokens ─ word embedding + position + segment ─ norm ─► x
//!  each layer:   x ─► q k v ─ attention ─ output ─ + x ─ norm ─► x
//!                x ─► inner ─ activation ─► down ─ + x ─ norm ─► x
//!  each text:    mean of its rows, or the first ─ to length 1 ─► vector
//! ```
//!
//! The rows of several texts lie one after the other: products take them all at once, without
//! padding, and attention keeps to each text's own.

use std::ops::Range;

use llmserve_core::{Error, ModelError, TokenId};

use super::config::EncoderConfig;
use super::recipe::{Pooling, Recipe};
use super::{Layer, SentenceEncoder};
use crate::decoder::DType;
use crate::error::LoadError;
use crate::kernels::Level;
use crate::kernels::bidirectional::{HeadShape, Scratch, attend_texts};
use crate::kernels::buffer::Buffer;
use crate::kernels::embed::embed;
use crate::kernels::gemm::{Output, Put, gemm};
use crate::kernels::inputs::{Inputs, Source};
use crate::kernels::layer_norm::Added;
use crate::kernels::packed::Packed;
use crate::kernels::tiling::Tiling;
use crate::threads::{TaskPanicked, ThreadTeam};

/// Rows of a pass: as many as a longest text has, and no fewer than these. More share the weights of
/// a product no better, and leave the caches.
const LEAST_ROWS: usize = 512;

/// What computes, one pass at a time.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) team: ThreadTeam,
    pub(super) workspace: Workspace,
}

/// A pass's intermediate results; what is never touched takes no memory.
#[derive(Debug)]
pub(super) struct Workspace {
    rows: usize,
    /// The residual stream, row-major.
    x: Buffer<f32>,
    /// Queries, keys and values, row-major.
    qkv: Buffer<f32>,
    /// What attention gives, row-major.
    mixed: Buffer<f32>,
    /// The inside of the feed-forward layer, row-major.
    inner: Buffer<f32>,
    inputs: Inputs,
    scratch: Scratch,
    positions: Vec<u32>,
}

impl Workspace {
    pub(super) fn new(
        config: &EncoderConfig,
        recipe: &Recipe,
        dtype: DType,
        threads: usize,
    ) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden, config.inner);
        let rows = recipe.max_tokens.max(LEAST_ROWS);
        let shape = HeadShape {
            heads: config.heads,
            head_dim: config.head_dim(),
        };
        let make = |width: usize| rows.checked_mul(width).and_then(Buffer::try_zeroed);
        let made = || {
            Some(Self {
                rows,
                x: make(hidden)?,
                qkv: make(3 * hidden)?,
                mixed: make(hidden)?,
                inner: make(inner)?,
                inputs: Inputs::try_new(&[(rows, hidden), (rows, inner)], dtype.format())?,
                scratch: Scratch::try_new(shape, recipe.max_tokens, threads)?,
                positions: Vec::new(),
            })
        };
        made().ok_or_else(|| {
            LoadError::config(
                "max_seq_length",
                format!(
                    "{}: no memory for texts of so many tokens: lower it",
                    recipe.max_tokens
                ),
            )
        })
    }
}

impl SentenceEncoder {
    /// The vectors of texts that the tokenizer has cut.
    pub(super) fn encode(&self, texts: &[Vec<TokenId>]) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = Vec::with_capacity(texts.len());
        let mut next = 0;
        while next < texts.len() {
            // Locked for each pass, so that a few texts need not wait until many are done.
            let mut running = self.running.lock();
            let most = running.workspace.rows;
            let (begin, mut rows) = (next, 0);
            while next < texts.len() && (next == begin || rows + texts[next].len() <= most) {
                rows += texts[next].len();
                next += 1;
            }
            self.pass(&mut running, &texts[begin..next], &mut vectors)?;
        }
        Ok(vectors)
    }

    /// One pass of texts that fit.
    fn pass(
        &self,
        running: &mut Running,
        texts: &[Vec<TokenId>],
        vectors: &mut Vec<Vec<f32>>,
    ) -> Result<(), Error> {
        let Running { team, workspace } = running;
        let ids: Vec<TokenId> = texts.concat();
        let mut spans: Vec<Range<usize>> = Vec::with_capacity(texts.len());
        workspace.positions.clear();
        for text in texts {
            let begin = spans.last().map_or(0, |span| span.end);
            spans.push(begin..begin + text.len());
            workspace.positions.extend(0..text.len() as u32);
        }
        let mut pass = Pass {
            config: &self.config,
            level: self.level,
            team,
            workspace,
            rows: ids.len(),
            spans: &spans,
        };
        pass.layers(self, &ids)
            .map_err(|panic| Error::Model(ModelError::Backend(panic.to_string())))?;
        let hidden = self.config.hidden;
        for span in &spans {
            let rows = &workspace.x[span.start * hidden..span.end * hidden];
            vectors.push(pool(rows, hidden, self.recipe.pooling)?);
        }
        Ok(())
    }
}

/// What the layers of one pass share.
struct Pass<'a> {
    config: &'a EncoderConfig,
    level: Level,
    team: &'a mut ThreadTeam,
    workspace: &'a mut Workspace,
    rows: usize,
    spans: &'a [Range<usize>],
}

impl Pass<'_> {
    fn layers(&mut self, encoder: &SentenceEncoder, ids: &[TokenId]) -> Result<(), TaskPanicked> {
        let (hidden, network) = (self.config.hidden, &encoder.network);
        let Workspace { x, positions, .. } = &mut *self.workspace;
        let x = &mut x[..self.rows * hidden];
        let words = encoder.weights.bytes(&encoder.words);
        embed(self.team, words, encoder.words.dtype, ids, hidden, x)?;
        let added = Added {
            table: &network.positions,
            rows: positions,
        };
        network.norm.apply(self.team, self.level, x, Some(added))?;
        network
            .layers
            .iter()
            .try_for_each(|layer| self.layer(layer))
    }

    fn layer(&mut self, layer: &Layer) -> Result<(), TaskPanicked> {
        let Self { level, rows, .. } = *self;
        let hidden = self.config.hidden;
        self.product(&layer.qkv, Stream::X, Stream::Qkv, Put::Store)?;
        let Workspace {
            qkv,
            mixed,
            scratch,
            ..
        } = &mut *self.workspace;
        let shape = HeadShape {
            heads: self.config.heads,
            head_dim: self.config.head_dim(),
        };
        attend_texts(self.team, level, shape, self.spans, qkv, scratch, mixed)?;
        self.product(&layer.output, Stream::Mixed, Stream::X, Put::Add)?;
        let x = &mut self.workspace.x[..rows * hidden];
        layer.after_attention.apply(self.team, level, x, None)?;
        let activated = Put::Activated(self.config.activation);
        self.product(&layer.inner, Stream::X, Stream::Inner, activated)?;
        self.product(&layer.down, Stream::Inner, Stream::X, Put::Add)?;
        let x = &mut self.workspace.x[..rows * hidden];
        layer.after_feed_forward.apply(self.team, level, x, None)
    }

    /// Multiplies all rows of one buffer with `weights` into another.
    fn product(
        &mut self,
        weights: &Packed,
        from: Stream,
        to: Stream,
        put: Put,
    ) -> Result<(), TaskPanicked> {
        let Workspace {
            x,
            qkv,
            mixed,
            inner,
            inputs,
            ..
        } = &mut *self.workspace;
        let data: &[f32] = match from {
            Stream::X => x,
            Stream::Qkv => qkv,
            Stream::Mixed => mixed,
            Stream::Inner => inner,
        };
        let source = Source { data, norm: None };
        let tiling = Tiling::new(self.rows, self.level.tile_rows(weights.format));
        let filled = inputs.fill(self.team, self.level, weights, tiling, source)?;
        let out: &mut [f32] = match to {
            Stream::X => x,
            Stream::Qkv => qkv,
            Stream::Mixed => mixed,
            Stream::Inner => inner,
        };
        let output = Output {
            out,
            stride: weights.columns,
            put,
        };
        gemm(self.team, self.level, filled, weights, output)
    }
}

/// A buffer that products read or write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    X,
    Qkv,
    Mixed,
    Inner,
}

/// One vector of length 1 of a text's rows.
fn pool(rows: &[f32], width: usize, pooling: Pooling) -> Result<Vec<f32>, Error> {
    let mut vector = vec![0.0; width];
    let count = match pooling {
        Pooling::Mean => rows.len() / width,
        Pooling::First => 1,
    };
    for row in rows.chunks_exact(width).take(count) {
        for (sum, x) in vector.iter_mut().zip(row) {
            *sum += x;
        }
    }
    // The mean of rows points where their sum does.
    let squares: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let length = squares.sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(Error::Model(ModelError::Backend(format!(
            "a text's vector has length {length}, which no direction can be told of: the \
             checkpoint is not a trained embedder"
        ))));
    }
    for x in &mut vector {
        *x = (f64::from(*x) / length) as f32;
    }
    Ok(vector)
}
