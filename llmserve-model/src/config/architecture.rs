//! The architectures that the decoder computes, and what each takes for granted.

use serde_json::Value;

use crate::config::fields::{Fields, shown};
use crate::error::LoadError;

/// The window of a Mistral configuration that does not name one.
const MISTRAL_WINDOW: usize = 4096;

/// The architectures of the Llama family that one decoder computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Llama,
    Mistral,
    Qwen2,
}

/// Which projections have biases.
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) output: bool,
    pub(super) mlp: bool,
}

impl Variant {
    const ALL: [Variant; 3] = [Variant::Llama, Variant::Mistral, Variant::Qwen2];

    pub(super) fn name(self) -> &'static str {
        match self {
            Variant::Llama => "LlamaForCausalLM",
            Variant::Mistral => "MistralForCausalLM",
            Variant::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    fn model_type(self) -> &'static str {
        match self {
            Variant::Llama => "llama",
            Variant::Mistral => "mistral",
            Variant::Qwen2 => "qwen2",
        }
    }

    /// In `transformers` only Llama reads these fields; Mistral and Qwen2 are built one way. A
    /// file that contradicts its own architecture is refused rather than half believed.
    pub(super) fn biases(self, fields: &Fields) -> Result<Biases, LoadError> {
        let attention = fields.opt_bool("attention_bias")?;
        let mlp = fields.opt_bool("mlp_bias")?;
        let fixed = |name: &str, said: Option<bool>, built: bool| match said {
            Some(said) if said != built => Err(LoadError::unsupported(
                name,
                format!("{said}; {} is always {built} here", self.name()),
            )),
            _ => Ok(built),
        };
        Ok(match self {
            Variant::Llama => Biases {
                qkv: attention.unwrap_or(false),
                output: attention.unwrap_or(false),
                mlp: mlp.unwrap_or(false),
            },
            Variant::Mistral => Biases {
                qkv: fixed("attention_bias", attention, false)?,
                output: false,
                mlp: fixed("mlp_bias", mlp, false)?,
            },
            Variant::Qwen2 => Biases {
                qkv: fixed("attention_bias", attention, true)?,
                output: false,
                mlp: fixed("mlp_bias", mlp, false)?,
            },
        })
    }

    /// Refuses a file that names another family, and attention that does not see the whole sequence. A window at least as wide as the
    /// context hides nothing, so it passes.
    pub(super) fn refuse_windows(
        self,
        fields: &Fields,
        max_position: usize,
    ) -> Result<(), LoadError> {
        if let Some(kind) = fields.get("model_type")
            && kind != self.model_type()
        {
            return Err(LoadError::unsupported(
                "model_type",
                format!(
                    "{}; {} is {:?}",
                    shown(kind),
                    self.name(),
                    self.model_type()
                ),
            ));
        }
        if let Some(layers) = fields.get("layer_types") {
            let all_full = layers
                .as_array()
                .is_some_and(|l| l.iter().all(|kind| kind == "full_attention"));
            if !all_full {
                return Err(LoadError::unsupported(
                    "layer_types",
                    format!(
                        "{}; supported: full_attention in every layer",
                        shown(layers)
                    ),
                ));
            }
        }
        // Qwen2 files carry a window that this switch, off by default, leaves unused.
        let used = match fields.opt_bool("use_sliding_window")? {
            Some(used) => used,
            None => self != Variant::Qwen2,
        };
        let (window, said) = match fields.opt_size("sliding_window", usize::MAX)? {
            // To `transformers`, null is no window, and silence is this one.
            None if self == Variant::Mistral && !fields.has("sliding_window") => {
                (Some(MISTRAL_WINDOW), "it is absent, which means ")
            }
            window => (window, ""),
        };
        match window {
            Some(window) if used && window < max_position => Err(LoadError::unsupported(
                "sliding_window",
                format!(
                    "{said}{window} tokens of a context of {max_position}; supported: attention to the whole context (null, or at least {max_position})"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// The architecture that the file names.
pub(super) fn recognise(fields: &Fields) -> Result<Variant, LoadError> {
    let name = match fields.get("architectures") {
        Some(Value::Array(names)) => match names.as_slice() {
            [Value::String(name)] => name,
            _ => return Err(fields.wrong("architectures", "a list of one name")),
        },
        _ => return Err(fields.wrong("architectures", "a list of one name")),
    };
    Variant::ALL
        .into_iter()
        .find(|variant| variant.name() == name)
        .ok_or_else(|| LoadError::UnsupportedArchitecture {
            name: name.clone(),
            supported: Variant::ALL.map(Variant::name).join(", "),
        })
}

/// Fields of relatives of the family that would change the arithmetic. Each is fine as long as it
/// says what this decoder does anyway.
pub(super) fn refuse_unknown_arithmetic(fields: &Fields) -> Result<(), LoadError> {
    /// What a field may say.
    enum Neutral {
        /// Nothing: its presence is the feature.
        Absent,
        False,
        Number(f64),
    }
    use Neutral::{Absent, False, Number};
    const FIELDS: &[(&str, Neutral, &str)] = &[
        (
            "quantization_config",
            Absent,
            "unquantised checkpoints (F32, F16, BF16)",
        ),
        (
            "compression_config",
            Absent,
            "unquantised checkpoints (F32, F16, BF16)",
        ),
        (
            "partial_rotary_factor",
            Number(1.0),
            "rotary embedding over whole heads (1)",
        ),
        (
            "rotary_pct",
            Number(1.0),
            "rotary embedding over whole heads (1)",
        ),
        (
            "rope_interleaved",
            False,
            "rotary embedding by halves (false)",
        ),
        (
            "rope_interleave",
            False,
            "rotary embedding by halves (false)",
        ),
        (
            "no_rope_layers",
            Absent,
            "rotary embedding in every layer (null)",
        ),
        (
            "attention_multiplier",
            Absent,
            "attention scaled by 1/sqrt(head_dim) (null)",
        ),
        (
            "query_pre_attn_scalar",
            Absent,
            "attention scaled by 1/sqrt(head_dim) (null)",
        ),
        (
            "attn_scale",
            Number(1.0),
            "attention scaled by 1/sqrt(head_dim) (null)",
        ),
        (
            "attn_temperature_tuning",
            False,
            "attention of constant temperature (false)",
        ),
        (
            "attn_logit_softcapping",
            Absent,
            "uncapped attention (null)",
        ),
        ("final_logit_softcapping", Absent, "uncapped logits (null)"),
        ("clip_qkv", Absent, "unclipped projections (null)"),
        (
            "use_qk_norm",
            False,
            "queries and keys without a norm (false)",
        ),
        ("qk_norm", False, "queries and keys without a norm (false)"),
        ("attention_out_bias", False, "attention_bias"),
        (
            "embedding_multiplier",
            Number(1.0),
            "unscaled embeddings (1)",
        ),
        ("scale_emb", Number(1.0), "unscaled embeddings (1)"),
        ("residual_multiplier", Number(1.0), "unscaled residuals (1)"),
        ("logits_scaling", Number(1.0), "unscaled logits (1)"),
        ("logit_scale", Number(1.0), "unscaled logits (1)"),
        ("num_experts", Absent, "one feed-forward per layer (null)"),
        (
            "num_local_experts",
            Absent,
            "one feed-forward per layer (null)",
        ),
        ("is_encoder_decoder", False, "decoder-only models (false)"),
        ("add_cross_attention", False, "decoder-only models (false)"),
    ];
    for (name, neutral, supported) in FIELDS {
        let Some(value) = fields.get(name) else {
            continue;
        };
        let fits = match neutral {
            Absent => false,
            False => value == &Value::Bool(false),
            Number(n) => value.as_f64() == Some(*n),
        };
        if !fits {
            return Err(LoadError::unsupported(
                *name,
                format!("{}; supported: {supported}", shown(value)),
            ));
        }
    }
    Ok(())
}
