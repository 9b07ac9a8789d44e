//! Sentence embedders: BERT encoders on the CPU.
//!
//! ```text
//!  a folder, as sentence-transformers saves it
//!     ├─ modules.json, 1_Pooling/config.json, sentence_bert_config.json ─► Recipe
//!     ├─ config.json ───────────────────────────────────────────────────► EncoderConfig
//!     ├─ tokenizer.json ────────────────────────────────────────────────► HfTokenizer, which cuts
//!     └─ model.safetensors ─► packed once, every value checked ─────────► Network
//!
//!  texts ─ tokens, cut ─► ragged rows ─ layers ─ pooled, to length 1 ─► vectors
//! ```
//!
//! Products run on the decoder's kernels and on a [`ThreadTeam`](crate::ThreadTeam) of the encoder's
//! own. Attention goes both ways and keeps nothing, so there are no pages.

mod build;
mod config;
mod forward;
mod options;
mod recipe;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use llmserve_core::{Embedder, Error, TokenId, Tokenizer};
use parking_lot::Mutex;

use crate::kernels::Level;
use crate::kernels::layer_norm::LayerNorm;
use crate::kernels::packed::Packed;
use crate::tokenizer::HfTokenizer;
use crate::weights::{TensorHandle, Weights};
use config::EncoderConfig;
use forward::Running;
pub use options::EncoderOptions;
use recipe::Recipe;

/// A sentence embedder of the BERT family, such as all-MiniLM-L6-v2, computed on the CPU.
///
/// * Texts are cut to as many tokens as the embedder was trained with
///   ([`max_tokens`](Self::max_tokens)), as `sentence-transformers` cuts them.
/// * Vectors have length 1, also where `modules.json` lists no `Normalize`: the cosine of two is the
///   same either way.
/// * A text's vector is the same, bit for bit, alone or among others, and on any number of threads.
///   Another [`Kernels`](crate::Kernels) level may round differently in the last places; its vectors
///   can be compared, and so the [`identity`](Embedder::identity) does not name it.
/// * Calls from several threads take turns, a pass of some hundred tokens each.
///
/// ```no_run
/// use llmserve_core::Embedder;
/// use llmserve_model::{EncoderOptions, SentenceEncoder};
///
/// let encoder = SentenceEncoder::open("models/minilm".as_ref(), &EncoderOptions::default())?;
/// let vectors = encoder.embed(&["How do I reset my password?", "I forgot my password."])?;
/// let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SentenceEncoder {
    identity: String,
    config: EncoderConfig,
    recipe: Recipe,
    tokenizer: HfTokenizer,
    /// Kept for the word embeddings, whose rows are read where they lie.
    weights: Arc<Weights>,
    words: TensorHandle,
    network: Network,
    level: Level,
    running: Mutex<Running>,
}

/// Everything between word embeddings and pooling.
#[derive(Debug)]
struct Network {
    /// What is added to the embedding at each position.
    positions: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    qkv: Packed,
    output: Packed,
    after_attention: LayerNorm,
    inner: Packed,
    down: Packed,
    after_feed_forward: LayerNorm,
}

impl SentenceEncoder {
    /// Tokens of a text at most, those that frame it among them. What is longer is cut.
    pub fn max_tokens(&self) -> usize {
        self.recipe.max_tokens
    }

    /// The tokens that stand for a text: framed, and cut where it is too long.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer's library fails.
    pub fn tokens(&self, text: &str) -> Result<Vec<TokenId>, Error> {
        let text = text.trim();
        Ok(match self.recipe.lowercase {
            true => self.tokenizer.encode(&text.to_lowercase(), true)?,
            false => self.tokenizer.encode(text, true)?,
        })
    }

    /// Bytes of packed weights, scales included: what a pass reads of them.
    pub fn packed_bytes(&self) -> usize {
        let layer = |l: &Layer| [&l.qkv, &l.output, &l.inner, &l.down].map(Packed::bytes);
        self.network.layers.iter().flat_map(layer).sum()
    }

    /// Multiplications and additions of the products of a pass with weights, for each token.
    pub fn flops_per_token(&self) -> usize {
        let layer = |l: &Layer| {
            [&l.qkv, &l.output, &l.inner, &l.down].map(|matrix| 2 * matrix.depth * matrix.columns)
        };
        self.network.layers.iter().flat_map(layer).sum()
    }
}

impl Embedder for SentenceEncoder {
    fn dimensions(&self) -> usize {
        self.config.hidden
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        let texts: Vec<_> = texts
            .iter()
            .map(|text| self.tokens(text))
            .collect::<Result<_, _>>()?;
        self.encode(&texts)
    }
}
