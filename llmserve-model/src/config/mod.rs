//! What a model is, from its `config.json` and `generation_config.json`.
//!
//! [`DecoderConfig`] is the one description that the decoder computes from. It is parsed from the
//! files of the Hugging Face `transformers` project, older and newer spellings alike, with one
//! rule: a field that would change a number is either honoured or refused by name, never ignored.

mod architecture;
pub(crate) mod fields;
mod generation;
mod record;
mod rope;
#[cfg(test)]
mod tests;

use std::path::Path;

use llmserve_core::TokenId;

use crate::error::LoadError;
use crate::weights::FileDType;
use fields::{Fields, read_object};

pub use generation::GenerationConfig;
pub use rope::{RopeConfig, RopeScaling};

/// Upper bounds of every size. Far above any real model, and low enough that no product of the
/// sizes that a decoder multiplies overflows 64 bits, whoever wrote the file.
pub(crate) mod limit {
    pub(crate) const HIDDEN: usize = 1 << 17;
    pub(crate) const INTERMEDIATE: usize = 1 << 20;
    pub(crate) const LAYERS: usize = 1 << 12;
    pub(crate) const HEADS: usize = 1 << 12;
    pub(crate) const HEAD_DIM: usize = 1 << 12;
    pub(crate) const VOCAB: usize = 1 << 24;
    pub(crate) const POSITIONS: usize = 1 << 26;
    /// Ids of one field; published files name a handful.
    pub(crate) const TOKEN_IDS: usize = 1024;
}

/// The function between the two halves of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x · sigmoid(x)`, also known as swish.
    Silu,
    /// `x · Φ(x)` with the error function.
    Gelu,
    /// `x · Φ(x)` in the approximation by tanh.
    GeluTanh,
}

/// One decoder: sizes, variants, and which tokens frame a text.
///
/// ```
/// use llmserve_model::{Activation, DecoderConfig};
/// let config = DecoderConfig::from_json(r#"{
///     "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
///     "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
///     "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
///     "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
///     "bos_token_id": 0, "eos_token_id": [1, 2], "torch_dtype": "bfloat16"
/// }"#, None)?;
/// assert_eq!(config.head_dim, 16);
/// assert_eq!(config.activation, Activation::Silu);
/// assert_eq!(config.eos, [1, 2]);
/// # Ok::<(), llmserve_model::LoadError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The class that `transformers` would run, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`. Equal to it: multi-head; 1: multi-query;
    /// between: grouped-query attention.
    pub num_kv_heads: usize,
    /// Width of one head; even. Need not be `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Rows of the embedding. Token ids below it are valid.
    pub vocab_size: usize,
    /// The longest sequence, prompt and answer together, in tokens.
    pub max_position: usize,
    /// What RMSNorm adds to the mean square before the root.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the output head is the embedding itself.
    pub tie_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub attention_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the three feed-forward projections have biases.
    pub mlp_bias: bool,
    /// The feed-forward layer's function.
    pub activation: Activation,
    /// Tokens that end an answer, from both files, without repeats. May be empty.
    pub eos: Vec<TokenId>,
    /// The token that begins a text, if the model has one.
    pub bos: Option<TokenId>,
    /// How the checkpoint says that its weights are stored. Each tensor says so itself, too, and
    /// the tensor is right.
    pub weights_dtype: Option<FileDType>,
}

impl DecoderConfig {
    /// Reads `config.json` in folder `dir`, and `generation_config.json` where there is one.
    ///
    /// # Errors
    /// [`LoadError::Missing`] without a `config.json`, [`LoadError::Corrupt`] for one that is not a
    /// JSON object, [`LoadError::UnsupportedArchitecture`], [`LoadError::Unsupported`] and
    /// [`LoadError::Config`] for what it says.
    pub fn from_dir(dir: &Path) -> Result<Self, LoadError> {
        Ok(Self::read(dir)?.0)
    }

    /// [`DecoderConfig::from_dir`], and what the generation config says besides.
    pub(crate) fn read(dir: &Path) -> Result<(Self, GenerationConfig), LoadError> {
        let path = dir.join("config.json");
        let fields = read_object(&path)?.ok_or_else(|| LoadError::Missing {
            what: "the model's config.json".to_owned(),
            path,
        })?;
        let generation = match read_object(&dir.join("generation_config.json"))? {
            Some(fields) => GenerationConfig::from_fields(&fields)?,
            None => GenerationConfig::default(),
        };
        let config = Self::from_fields(&fields, &generation)?;
        Ok((config, generation))
    }

    /// Parses the text of a `config.json`, and that of a `generation_config.json` where there is
    /// one.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_dir`], except that text that is not a JSON object is a
    /// [`LoadError::Config`].
    pub fn from_json(config: &str, generation: Option<&str>) -> Result<Self, LoadError> {
        let parse = |file: &str, text: &str| {
            Fields::parse(text.as_bytes()).map_err(|reason| LoadError::config(file, reason))
        };
        let generation = match generation {
            Some(text) => GenerationConfig::from_fields(&parse("generation_config.json", text)?)?,
            None => GenerationConfig::default(),
        };
        Self::from_fields(&parse("config.json", config)?, &generation)
    }

    fn from_fields(fields: &Fields, generation: &GenerationConfig) -> Result<Self, LoadError> {
        let variant = architecture::recognise(fields)?;
        architecture::refuse_unknown_arithmetic(fields)?;

        let hidden_size = fields.size("hidden_size", limit::HIDDEN)?;
        let num_heads = fields.size("num_attention_heads", limit::HEADS)?;
        let max_position = fields.size("max_position_embeddings", limit::POSITIONS)?;
        variant.refuse_windows(fields, max_position)?;
        let head_dim = match fields.opt_size("head_dim", limit::HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                return Err(LoadError::config(
                    "head_dim",
                    format!(
                        "it is absent, and hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}"
                    ),
                ));
            }
        };
        let biases = variant.biases(fields)?;
        let mut eos = generation::token_ids(fields, "eos_token_id")?;
        for &id in &generation.eos {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }

        let config = Self {
            architecture: variant.name().to_owned(),
            hidden_size,
            intermediate_size: fields.size("intermediate_size", limit::INTERMEDIATE)?,
            num_layers: fields.size("num_hidden_layers", limit::LAYERS)?,
            num_heads,
            num_kv_heads: fields
                .opt_size("num_key_value_heads", limit::HEADS)?
                .unwrap_or(num_heads),
            head_dim,
            vocab_size: fields.size("vocab_size", limit::VOCAB)?,
            max_position,
            norm_eps: fields.opt_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: RopeConfig::from_fields(fields)?,
            tie_embeddings: fields.opt_bool("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: biases.qkv,
            output_bias: biases.output,
            mlp_bias: biases.mlp,
            activation: activation(fields, Activation::Silu)?,
            eos,
            bos: generation::token_ids(fields, "bos_token_id")?
                .first()
                .copied()
                .or(generation.bos),
            weights_dtype: weights_dtype(fields)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the sizes fit each other. [`DecoderConfig::from_dir`] has done so; a
    /// configuration written by hand has not been checked yet.
    ///
    /// # Errors
    /// [`LoadError::Config`], which names the first field that does not fit.
    pub fn validate(&self) -> Result<(), LoadError> {
        let sizes = [
            ("hidden_size", self.hidden_size, limit::HIDDEN),
            (
                "intermediate_size",
                self.intermediate_size,
                limit::INTERMEDIATE,
            ),
            ("num_hidden_layers", self.num_layers, limit::LAYERS),
            ("num_attention_heads", self.num_heads, limit::HEADS),
            ("num_key_value_heads", self.num_kv_heads, limit::HEADS),
            ("head_dim", self.head_dim, limit::HEAD_DIM),
            ("vocab_size", self.vocab_size, limit::VOCAB),
            (
                "max_position_embeddings",
                self.max_position,
                limit::POSITIONS,
            ),
        ];
        for (field, value, max) in sizes {
            if !(1..=max).contains(&value) {
                return Err(LoadError::config(
                    field,
                    format!("{value}, expected an integer of 1 to {max}"),
                ));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return Err(LoadError::config(
                "num_key_value_heads",
                format!(
                    "{} does not divide num_attention_heads {}",
                    self.num_kv_heads, self.num_heads
                ),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(LoadError::config(
                "head_dim",
                format!(
                    "{} is odd; rotary embeddings turn pairs of dimensions",
                    self.head_dim
                ),
            ));
        }
        if !(self.norm_eps.is_normal() && self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(LoadError::config(
                "rms_norm_eps",
                format!("{}, expected a number above 0 and below 1", self.norm_eps),
            ));
        }
        self.rope.validate()?;
        let named = [
            ("bos_token_id", self.bos.as_slice()),
            ("eos_token_id", self.eos.as_slice()),
        ];
        for (field, ids) in named {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
                return Err(LoadError::config(
                    field,
                    format!("{id} is outside the vocabulary of {}", self.vocab_size),
                ));
            }
        }
        Ok(())
    }
}

pub(crate) fn activation(fields: &Fields, default: Activation) -> Result<Activation, LoadError> {
    match fields.opt_str("hidden_act")? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some(other) => Err(LoadError::unsupported(
            "hidden_act",
            format!("{other:?}; supported: silu, gelu, gelu_pytorch_tanh"),
        )),
    }
}

/// `dtype`, formerly `torch_dtype`.
fn weights_dtype(fields: &Fields) -> Result<Option<FileDType>, LoadError> {
    for name in ["dtype", "torch_dtype"] {
        match fields.opt_str(name)? {
            None | Some("auto") => {}
            Some(dtype) => {
                return match FileDType::from_torch(dtype) {
                    Some(dtype) => Ok(Some(dtype)),
                    None => Err(LoadError::unsupported(
                        name,
                        format!("{dtype:?}; supported: float32, float16, bfloat16"),
                    )),
                };
            }
        }
    }
    Ok(None)
}
