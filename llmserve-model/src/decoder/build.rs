//! From a checkpoint to packed weights.

use std::collections::HashSet;
use std::sync::Arc;

use llmserve_core::{KvGroupSpec, ModelInfo};

use super::fingerprint::Fingerprint;
use super::{CpuModel, CpuOptions, DType, Layer};
use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::kernels::Kernels;
use crate::kernels::packed::{Arrangement, Linear, Packed, check_finite, finite_vector};
use crate::kernels::rope::frequencies;
use crate::pages::{Pages, layout_name};
use crate::threads::{ThreadTeam, physical_cores};
use crate::weights::{TensorView, Weights};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

impl CpuModel {
    /// Packs the weights that `config` describes. The embedding's rows stay in the mapped file, so
    /// the model keeps `weights`. The other tensors leave memory as soon as they are packed
    /// ([`Weights::release`]): at its peak, loading needs the packed weights, the embedding, and
    /// the few tensors that become one matrix.
    ///
    /// # Errors
    /// [`LoadError::Kernel`] for kernels that this CPU lacks, [`LoadError::InvalidOption`] and
    /// [`LoadError::Threads`] for other options that cannot be honoured; [`LoadError::Config`] for
    /// a configuration that contradicts itself; [`LoadError::MissingTensor`],
    /// [`LoadError::WrongShape`], [`LoadError::UnsupportedDType`] and [`LoadError::NonFinite`] for
    /// weights that are not those of the configuration or are damaged; [`LoadError::Unsupported`]
    /// for tensors that the configuration does not know.
    pub fn build(
        config: &DecoderConfig,
        weights: Arc<Weights>,
        options: &CpuOptions,
    ) -> Result<Self, LoadError> {
        config.validate()?;
        let level = options.kernels.unwrap_or_else(Kernels::detect).level()?;
        let threads = options.threads.unwrap_or_else(physical_cores);
        if threads == 0 {
            return Err(LoadError::InvalidOption {
                option: "threads",
                reason: "0, expected at least 1".to_owned(),
            });
        }
        let mut team = ThreadTeam::new(threads).map_err(|error| LoadError::Threads {
            reason: error.to_string(),
        })?;
        let mut loader = Loader {
            weights: &weights,
            team: &mut team,
            dtype: options.dtype,
            fingerprint: Fingerprint::default(),
            used: HashSet::new(),
        };

        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_heads * config.head_dim;
        let keys = config.num_kv_heads * config.head_dim;
        // First, while little else is in memory: it is the largest tensor.
        let final_norm = loader.vector("model.norm.weight", hidden)?;
        let head = loader.head(config, final_norm)?;
        let mut layers = Vec::with_capacity(config.num_layers);
        for index in 0..config.num_layers {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let attention = name("self_attn");
            let mlp = name("mlp");
            let bias = config.attention_bias;
            let attention_norm = loader.vector(&name("input_layernorm.weight"), hidden)?;
            let mlp_norm = loader.vector(&name("post_attention_layernorm.weight"), hidden)?;
            layers.push(Layer {
                qkv: loader.linear(
                    hidden,
                    &[
                        (format!("{attention}.q_proj"), queries, bias),
                        (format!("{attention}.k_proj"), keys, bias),
                        (format!("{attention}.v_proj"), keys, bias),
                    ],
                    Arrangement::Concatenated,
                    Some(attention_norm),
                )?,
                output: loader.linear(
                    queries,
                    &[(format!("{attention}.o_proj"), hidden, config.output_bias)],
                    Arrangement::Concatenated,
                    None,
                )?,
                gate_up: loader.linear(
                    hidden,
                    &[
                        (format!("{mlp}.gate_proj"), inner, config.mlp_bias),
                        (format!("{mlp}.up_proj"), inner, config.mlp_bias),
                    ],
                    Arrangement::Paired,
                    Some(mlp_norm),
                )?,
                down: loader.linear(
                    inner,
                    &[(format!("{mlp}.down_proj"), hidden, config.mlp_bias)],
                    Arrangement::Concatenated,
                    None,
                )?,
            });
        }
        loader.refuse_leftovers(config)?;
        let fingerprint = loader.fingerprint;
        let embedding = weights
            .handle(EMBEDDING)
            .ok_or_else(|| LoadError::MissingTensor {
                name: EMBEDDING.to_owned(),
            })?;

        let group = KvGroupSpec::full(
            config.num_layers * 2 * keys * options.dtype.kv().bits() as usize / 8,
            layout_name(options.dtype.kv()),
        );
        let name = options.name.clone();
        let mut info = ModelInfo::new(
            name.unwrap_or_else(|| config.architecture.clone()),
            config.vocab_size,
            config.max_position,
            group,
        );
        info.eos.clone_from(&config.eos);
        info.fingerprint = fingerprint.finish(config, options.dtype);
        info.backend = format!(
            "cpu {} {} {threads} thread{}",
            options.dtype,
            level.kernels(),
            if threads == 1 { "" } else { "s" }
        );
        Ok(Self {
            info,
            config: config.clone(),
            dtype: options.dtype,
            level,
            team,
            weights,
            embedding,
            layers,
            head,
            frequencies: frequencies(&config.rope, config.head_dim),
            prepared: None,
            no_pages: Pages::none(),
        })
    }
}

struct Loader<'a> {
    weights: &'a Weights,
    team: &'a mut ThreadTeam,
    dtype: DType,
    fingerprint: Fingerprint,
    /// Tensors that became part of the model.
    used: HashSet<String>,
}

impl Loader<'_> {
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let view = self.weights.tensor(name, &[len])?;
        let values = finite_vector(&view)?;
        self.done(&view)?;
        Ok(values)
    }

    /// Hashes a tensor while its pages are warm, and lets go of them.
    fn done(&mut self, view: &TensorView<'_>) -> Result<(), LoadError> {
        self.used.insert(view.name.clone());
        self.fingerprint.add(self.team, view)?;
        self.weights.release(&view.name);
        Ok(())
    }

    /// Packs layers `(name, outputs, whether there is a bias)` that have the same input.
    fn linear(
        &mut self,
        inputs: usize,
        layers: &[(String, usize, bool)],
        arrangement: Arrangement,
        norm: Option<Vec<f32>>,
    ) -> Result<Packed, LoadError> {
        let mut views = Vec::with_capacity(layers.len());
        for (name, outputs, with_bias) in layers {
            let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
            if !with_bias && self.weights.contains(&bias) {
                return Err(LoadError::unsupported(
                    bias,
                    "the checkpoint has this bias, and config.json says there is none",
                ));
            }
            views.push(Linear {
                weight: self.weights.tensor(&weight, &[*outputs, inputs])?,
                bias: match with_bias {
                    true => Some(self.weights.tensor(&bias, &[*outputs])?),
                    false => None,
                },
            });
        }
        let packed = Packed::new(self.team, self.dtype, inputs, &views, arrangement, norm)?;
        for Linear { weight, bias } in &views {
            self.done(weight)?;
            if let Some(bias) = bias {
                self.done(bias)?;
            }
        }
        Ok(packed)
    }

    /// The output head, and a check of the embedding, which stays where it is.
    fn head(&mut self, config: &DecoderConfig, norm: Vec<f32>) -> Result<Packed, LoadError> {
        let shape = [config.vocab_size, config.hidden_size];
        let name = if config.tie_embeddings {
            EMBEDDING
        } else {
            HEAD
        };
        let weight = self.weights.tensor(name, &shape)?;
        let head = Packed::new(
            self.team,
            self.dtype,
            config.hidden_size,
            &[Linear {
                weight: weight.clone(),
                bias: None,
            }],
            Arrangement::Concatenated,
            Some(norm),
        )?;
        let embedding = if config.tie_embeddings {
            weight
        } else {
            // First, so that the two are not in memory together.
            self.done(&weight)?;
            self.weights.tensor(EMBEDDING, &shape)?
        };
        check_finite(self.team, &embedding)?;
        self.used.insert(EMBEDDING.to_owned());
        self.fingerprint.add(self.team, &embedding)?;
        // Its rows come back one by one, as tokens ask for them.
        self.weights.release(EMBEDDING);
        Ok(head)
    }

    /// A checkpoint with more than the configuration describes is another model: more layers, a
    /// norm between them. Serving a part of it would give wrong numbers in silence.
    fn refuse_leftovers(&self, config: &DecoderConfig) -> Result<(), LoadError> {
        let harmless = |name: &str| {
            // Computed from the configuration; older checkpoints carry it along. And the copy of
            // a tied embedding.
            name.ends_with(".rotary_emb.inv_freq") || (config.tie_embeddings && name == HEAD)
        };
        let left = self.weights.names();
        let mut left = left.filter(|name| !self.used.contains(*name) && !harmless(name));
        match left.next() {
            None => Ok(()),
            Some(name) => Err(LoadError::unsupported(
                name,
                format!(
                    "the checkpoint has this tensor, and a {} of {} layers, as config.json \
                     describes it, does not",
                    config.architecture, config.num_layers
                ),
            )),
        }
    }
}
