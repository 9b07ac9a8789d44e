//! What an encoder is, from its `config.json`.

use std::path::Path;

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::config::fields::{Fields, read_object, shown};
use crate::config::{Activation, activation, limit};
use crate::error::LoadError;
use crate::weights::fingerprint::number;

/// The architecture that is computed.
const ARCHITECTURE: &str = "BertModel";

/// The sizes and variants of a BERT encoder (Devlin et al., 2018).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EncoderConfig {
    pub(super) vocab: usize,
    /// Width of the residual stream, and of the vectors.
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// Positions that have an embedding.
    pub(super) positions: usize,
    /// Kinds of segments that have an embedding; a text by itself is of the first.
    pub(super) types: usize,
    pub(super) eps: f32,
    pub(super) activation: Activation,
}

impl EncoderConfig {
    /// Reads the `config.json` of folder `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("config.json");
        let fields = read_object(&path)?.ok_or_else(|| LoadError::Missing {
            what: "the encoder's config.json".to_owned(),
            path,
        })?;
        Self::from_fields(&fields)
    }

    fn from_fields(fields: &Fields) -> Result<Self, LoadError> {
        recognise(fields)?;
        let config = Self {
            vocab: fields.size("vocab_size", limit::VOCAB)?,
            hidden: fields.size("hidden_size", limit::HIDDEN)?,
            inner: fields.size("intermediate_size", limit::INTERMEDIATE)?,
            layers: fields.size("num_hidden_layers", limit::LAYERS)?,
            heads: fields.size("num_attention_heads", limit::HEADS)?,
            positions: fields.size("max_position_embeddings", limit::POSITIONS)?,
            types: fields
                .opt_size("type_vocab_size", limit::VOCAB)?
                .unwrap_or(2),
            eps: fields.opt_number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            activation: activation(fields, Activation::Gelu)?,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(fields.wrong(
                "num_attention_heads",
                &format!("a divisor of hidden_size, {}", config.hidden),
            ));
        }
        if config.eps.is_sign_negative() || !config.eps.is_finite() {
            return Err(fields.wrong("layer_norm_eps", "a number of at least 0"));
        }
        Ok(config)
    }

    pub(super) fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Adds everything that changes a vector to a hash.
    pub(super) fn hash(&self, all: &mut Xxh3) {
        for size in [
            self.vocab,
            self.hidden,
            self.inner,
            self.layers,
            self.heads,
            self.positions,
            self.types,
        ] {
            number(all, size as u64);
        }
        number(all, u64::from(self.eps.to_bits()));
        number(
            all,
            match self.activation {
                Activation::Silu => 0,
                Activation::Gelu => 1,
                Activation::GeluTanh => 2,
            },
        );
    }
}

/// Refuses other architectures, and what would make this one compute something else.
fn recognise(fields: &Fields) -> Result<(), LoadError> {
    match fields.get("architectures") {
        Some(Value::Array(names)) if matches!(names.as_slice(), [Value::String(_)]) => {
            if names[0] != ARCHITECTURE {
                return Err(LoadError::UnsupportedArchitecture {
                    name: names[0].as_str().unwrap_or_default().to_owned(),
                    supported: ARCHITECTURE.to_owned(),
                });
            }
        }
        _ => return Err(fields.wrong("architectures", "a list of one name")),
    }
    if let Some(kind) = fields.get("model_type")
        && kind != "bert"
    {
        return Err(LoadError::unsupported(
            "model_type",
            format!("{}; {ARCHITECTURE} is \"bert\"", shown(kind)),
        ));
    }
    match fields.opt_str("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(other) => {
            return Err(LoadError::unsupported(
                "position_embedding_type",
                format!("{other:?}; supported: absolute"),
            ));
        }
    }
    for name in ["is_decoder", "add_cross_attention"] {
        if fields.opt_bool(name)? == Some(true) {
            return Err(LoadError::unsupported(
                name,
                "true; supported: an encoder by itself, in which every token sees every other",
            ));
        }
    }
    if fields.get("quantization_config").is_some() {
        return Err(LoadError::unsupported(
            "quantization_config",
            "the checkpoint is quantised; supported: one of F32, F16 or BF16",
        ));
    }
    let pruned = fields.get("pruned_heads").and_then(Value::as_object);
    if pruned.is_some_and(|heads| !heads.is_empty()) {
        return Err(LoadError::unsupported(
            "pruned_heads",
            "some heads are gone; supported: all heads in every layer",
        ));
    }
    Ok(())
}
