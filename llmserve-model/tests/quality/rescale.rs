//! The same function with far larger numbers in a few channels.
//!
//! Large models carry activations in a few channels that are tens of times those of the others;
//! small ones do not. Here a checkpoint is given such channels without changing what it computes:
//! whatever makes a channel larger is multiplied, and whatever reads the channel is divided, by the
//! same factor.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use llmserve_model::{DecoderConfig, Weights};
use serde_json::{Value, json};

/// Where channels are enlarged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// What the query, key and value projections read.
    AttentionInput,
    /// What the output projection reads, by way of the values.
    Values,
    /// What the gate and up projections read.
    MlpInput,
    /// What the down projection reads.
    MlpInner,
    /// What the output head reads. A head that is tied to the embedding becomes a tensor of its
    /// own.
    HeadInput,
}

impl Place {
    /// All places.
    pub(crate) const ALL: [Place; 5] = [
        Place::AttentionInput,
        Place::Values,
        Place::MlpInput,
        Place::MlpInner,
        Place::HeadInput,
    ];
}

/// Which channels of a checkpoint are enlarged, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rescale<'a> {
    /// Where.
    pub(crate) places: &'a [Place],
    /// Of all channels of a place, how many; at least one is taken in each layer.
    pub(crate) share: f64,
    /// How many times larger they become.
    pub(crate) factor: f32,
    /// Which ones: others in each layer and place.
    pub(crate) seed: u64,
}

impl Default for Rescale<'_> {
    fn default() -> Self {
        Self {
            places: &Place::ALL,
            share: 0.005,
            factor: 50.0,
            seed: 1,
        }
    }
}

impl Rescale<'_> {
    /// Writes the rescaled model of the folder `from`, in `f32` so that the function stays the
    /// same to the last few bits, to the folder `to`: its configuration and weights alone. Returns
    /// how many channels it enlarged.
    ///
    /// # Errors
    /// When the model cannot be read, or the folder not written.
    pub(crate) fn write(&self, from: &Path, to: &Path) -> Result<usize, Box<dyn Error>> {
        let config = DecoderConfig::from_dir(from)?;
        let weights = Weights::open(from)?;
        let mut tensors = BTreeMap::new();
        for name in weights.names() {
            let view = weights.view(name)?;
            let values = view.to_f32();
            tensors.insert(
                name.to_owned(),
                Tensor {
                    shape: view.shape,
                    values,
                },
            );
        }
        let mut json: Value = serde_json::from_slice(&fs::read(from.join("config.json"))?)?;
        let mut checkpoint = Checkpoint {
            tensors,
            state: self.seed,
            share: self.share,
            factor: self.factor,
            enlarged: 0,
        };
        for layer in 0..config.num_layers {
            for &place in self.places {
                checkpoint.enlarge(place, &format!("model.layers.{layer}"), &config)?;
            }
        }
        if self.places.contains(&Place::HeadInput) {
            json["tie_word_embeddings"] = false.into();
            checkpoint.enlarge_head_input()?;
        }
        fs::write(to.join("config.json"), json.to_string())?;
        fs::write(to.join("model.safetensors"), checkpoint.safetensors())?;
        Ok(checkpoint.enlarged)
    }
}

/// Row-major: `[out, in]` for a projection.
#[derive(Clone)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
    state: u64,
    share: f64,
    factor: f32,
    enlarged: usize,
}

impl Checkpoint {
    fn enlarge(
        &mut self,
        place: Place,
        layer: &str,
        config: &DecoderConfig,
    ) -> Result<(), Box<dyn Error>> {
        let attention = format!("{layer}.self_attn");
        let mlp = format!("{layer}.mlp");
        match place {
            Place::AttentionInput => {
                let channels = self.pick(config.hidden_size);
                self.multiply(&format!("{layer}.input_layernorm"), &channels)?;
                for reader in ["q_proj", "k_proj", "v_proj"] {
                    self.divide(&format!("{attention}.{reader}"), &channels)?;
                }
            }
            Place::Values => {
                let dim = config.head_dim;
                let group = config.num_heads / config.num_kv_heads;
                let channels = self.pick(config.num_kv_heads * dim);
                self.multiply(&format!("{attention}.v_proj"), &channels)?;
                // Each value head is read by a group of query heads.
                let heads = |channel: usize| (0..group).map(move |i| channel / dim * group + i);
                let readers = channels.iter().flat_map(|&channel| {
                    heads(channel).map(move |head| head * dim + channel % dim)
                });
                self.divide(&format!("{attention}.o_proj"), &readers.collect::<Vec<_>>())?;
            }
            Place::MlpInput => {
                let channels = self.pick(config.hidden_size);
                self.multiply(&format!("{layer}.post_attention_layernorm"), &channels)?;
                for reader in ["gate_proj", "up_proj"] {
                    self.divide(&format!("{mlp}.{reader}"), &channels)?;
                }
            }
            Place::MlpInner => {
                let channels = self.pick(config.intermediate_size);
                self.multiply(&format!("{mlp}.up_proj"), &channels)?;
                self.divide(&format!("{mlp}.down_proj"), &channels)?;
            }
            Place::HeadInput => {}
        }
        Ok(())
    }

    fn enlarge_head_input(&mut self) -> Result<(), Box<dyn Error>> {
        if !self.tensors.contains_key("lm_head.weight") {
            let embedding = self.tensor("model.embed_tokens.weight")?.clone();
            self.tensors.insert("lm_head.weight".to_owned(), embedding);
        }
        let hidden = self.tensor("model.norm.weight")?.values.len();
        let channels = self.pick(hidden);
        self.multiply("model.norm", &channels)?;
        self.divide("lm_head", &channels)?;
        Ok(())
    }

    fn tensor(&mut self, name: &str) -> Result<&mut Tensor, String> {
        let tensor = self.tensors.get_mut(name);
        tensor.ok_or_else(|| format!("there is no tensor {name}"))
    }

    /// Some of `count` channels, each at most once.
    fn pick(&mut self, count: usize) -> Vec<usize> {
        let wanted = ((count as f64 * self.share).ceil() as usize).clamp(1, count);
        let mut channels = Vec::new();
        while channels.len() < wanted {
            let channel = (self.random() % count as u64) as usize;
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        self.enlarged += wanted;
        channels
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Multiplies what makes `channels`: a norm's weights, or a projection's rows and biases.
    fn multiply(&mut self, module: &str, channels: &[usize]) -> Result<(), String> {
        let factor = self.factor;
        let scale = |tensor: &mut Tensor| {
            let width: usize = tensor.shape[1..].iter().product();
            for &channel in channels {
                for x in &mut tensor.values[channel * width..(channel + 1) * width] {
                    *x *= factor;
                }
            }
        };
        scale(self.tensor(&format!("{module}.weight"))?);
        if let Some(bias) = self.tensors.get_mut(&format!("{module}.bias")) {
            scale(bias);
        }
        Ok(())
    }

    /// Divides what a projection makes of `channels`: its columns.
    fn divide(&mut self, module: &str, channels: &[usize]) -> Result<(), String> {
        let factor = self.factor;
        let tensor = self.tensor(&format!("{module}.weight"))?;
        for row in tensor.values.chunks_mut(tensor.shape[1]) {
            for &channel in channels {
                row[channel] /= factor;
            }
        }
        Ok(())
    }

    fn safetensors(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, tensor) in &self.tensors {
            let start = end;
            end += tensor.values.len() * size_of::<f32>();
            header.insert(
                name.clone(),
                json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]}),
            );
        }
        let header = Value::from(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        for tensor in self.tensors.values() {
            file.extend(tensor.values.iter().flat_map(|x| x.to_le_bytes()));
        }
        file
    }
}
