//! A configuration written down whole, to be read back equal: what a packed file carries.
//!
//! Fractions are text, since the shortest text that Rust writes is read back as the same number.

use std::fmt::Display;
use std::str::FromStr;

use llmserve_core::TokenId;
use serde::{Deserialize, Serialize};

use super::{Activation, DecoderConfig, RopeConfig, RopeScaling};
use crate::error::LoadError;
use crate::weights::FileDType;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    architecture: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_layers: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    max_position: usize,
    norm_eps: String,
    rope_theta: String,
    rope_scaling: Scaling,
    tie_embeddings: bool,
    attention_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    activation: Function,
    eos: Vec<TokenId>,
    bos: Option<TokenId>,
    weights_dtype: Option<Stored>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Scaling {
    None,
    Linear {
        factor: String,
    },
    Llama3 {
        factor: String,
        low_freq_factor: String,
        high_freq_factor: String,
        original_max_position: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Function {
    Silu,
    Gelu,
    GeluTanh,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    F32,
    F16,
    Bf16,
}

impl DecoderConfig {
    /// The whole configuration as JSON.
    pub(crate) fn to_record(&self) -> String {
        let text = |number: &dyn Display| number.to_string();
        let record = Record {
            architecture: self.architecture.clone(),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_layers: self.num_layers,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab_size,
            max_position: self.max_position,
            norm_eps: text(&self.norm_eps),
            rope_theta: text(&self.rope.theta),
            rope_scaling: match &self.rope.scaling {
                RopeScaling::None => Scaling::None,
                RopeScaling::Linear { factor } => Scaling::Linear {
                    factor: text(factor),
                },
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position,
                } => Scaling::Llama3 {
                    factor: text(factor),
                    low_freq_factor: text(low_freq_factor),
                    high_freq_factor: text(high_freq_factor),
                    original_max_position: *original_max_position,
                },
            },
            tie_embeddings: self.tie_embeddings,
            attention_bias: self.attention_bias,
            output_bias: self.output_bias,
            mlp_bias: self.mlp_bias,
            activation: match self.activation {
                Activation::Silu => Function::Silu,
                Activation::Gelu => Function::Gelu,
                Activation::GeluTanh => Function::GeluTanh,
            },
            eos: self.eos.clone(),
            bos: self.bos,
            weights_dtype: self.weights_dtype.map(|dtype| match dtype {
                FileDType::F32 => Stored::F32,
                FileDType::F16 => Stored::F16,
                FileDType::BF16 => Stored::Bf16,
            }),
        };
        serde_json::json!(record).to_string()
    }

    /// Reads what [`to_record`](Self::to_record) wrote, or says why it cannot be that.
    pub(crate) fn from_record(text: &str) -> Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::config("packed config", reason);
        let record: Record = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let config = Self {
            architecture: record.architecture,
            hidden_size: record.hidden_size,
            intermediate_size: record.intermediate_size,
            num_layers: record.num_layers,
            num_heads: record.num_heads,
            num_kv_heads: record.num_kv_heads,
            head_dim: record.head_dim,
            vocab_size: record.vocab_size,
            max_position: record.max_position,
            norm_eps: number("norm_eps", &record.norm_eps)?,
            rope: RopeConfig {
                theta: number("rope_theta", &record.rope_theta)?,
                scaling: match record.rope_scaling {
                    Scaling::None => RopeScaling::None,
                    Scaling::Linear { factor } => RopeScaling::Linear {
                        factor: number("rope factor", &factor)?,
                    },
                    Scaling::Llama3 {
                        factor,
                        low_freq_factor,
                        high_freq_factor,
                        original_max_position,
                    } => RopeScaling::Llama3 {
                        factor: number("rope factor", &factor)?,
                        low_freq_factor: number("low_freq_factor", &low_freq_factor)?,
                        high_freq_factor: number("high_freq_factor", &high_freq_factor)?,
                        original_max_position,
                    },
                },
            },
            tie_embeddings: record.tie_embeddings,
            attention_bias: record.attention_bias,
            output_bias: record.output_bias,
            mlp_bias: record.mlp_bias,
            activation: match record.activation {
                Function::Silu => Activation::Silu,
                Function::Gelu => Activation::Gelu,
                Function::GeluTanh => Activation::GeluTanh,
            },
            eos: record.eos,
            bos: record.bos,
            weights_dtype: record.weights_dtype.map(|dtype| match dtype {
                Stored::F32 => FileDType::F32,
                Stored::F16 => FileDType::F16,
                Stored::Bf16 => FileDType::BF16,
            }),
        };
        config.validate()?;
        Ok(config)
    }
}

fn number<T: FromStr>(field: &str, text: &str) -> Result<T, LoadError> {
    text.parse()
        .map_err(|_| LoadError::config(field, format!("{text:?}, expected a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DecoderConfig {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/llama");
        DecoderConfig::from_dir(folder.as_ref()).unwrap()
    }

    #[test]
    fn comes_back_equal() {
        let awkward = [0.1 + 0.2, 1.0 + f64::EPSILON, 1e300 / 3.0, 7.0];
        let base = config();
        for (i, number) in awkward.into_iter().enumerate() {
            let scalings = [
                RopeScaling::None,
                RopeScaling::Linear {
                    factor: number.max(1.0),
                },
                RopeScaling::Llama3 {
                    factor: number.max(1.0),
                    low_freq_factor: number,
                    high_freq_factor: number * 3.0,
                    original_max_position: 77,
                },
            ];
            for scaling in scalings {
                let config = DecoderConfig {
                    architecture: "a \"name\"\n".to_owned(),
                    norm_eps: 1e-5 / 3.0 * (1 + i) as f32,
                    rope: RopeConfig {
                        theta: number.max(1.0),
                        scaling,
                    },
                    activation: [Activation::Silu, Activation::Gelu, Activation::GeluTanh][i % 3],
                    weights_dtype: [None, Some(FileDType::F16), Some(FileDType::BF16)][i % 3],
                    bos: None,
                    ..base.clone()
                };
                let record = config.to_record();
                assert_eq!(
                    DecoderConfig::from_record(&record).unwrap(),
                    config,
                    "{record}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let record = config().to_record();
        for bad in [
            String::new(),
            "{}".to_owned(),
            record.replace("\"num_heads\":4", "\"num_heads\":0"),
            record.replace("\"num_heads\":4", "\"num_heads\":-4"),
            record.replace("\"num_heads\":4", "\"num_heads\":99999999"),
            record.replace("\"norm_eps\":\"", "\"norm_eps\":\"x"),
            record.replacen('{', "{\"more\":1,", 1),
        ] {
            assert_ne!(bad, record);
            assert!(DecoderConfig::from_record(&bad).is_err(), "{bad}");
        }
    }
}
