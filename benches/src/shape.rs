//! Models of real shapes with random weights: speed does not depend on the values.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::Workload;

/// A Llama's sizes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    rope_theta: f64,
}

/// Shapes by name.
const SHAPES: [Shape; 3] = [
    // Drafts for the next: the same vocabulary, a twelfth of the weights.
    Shape {
        name: "draft10m",
        hidden: 192,
        intermediate: 512,
        layers: 2,
        heads: 3,
        kv_heads: 1,
        vocab: 49_152,
        rope_theta: 100_000.0,
    },
    Shape {
        name: "smol135",
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        vocab: 49_152,
        rope_theta: 100_000.0,
    },
    Shape {
        name: "llama1b",
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        vocab: 49_152,
        rope_theta: 500_000.0,
    },
];

impl Shape {
    /// The shape of this name.
    pub fn named(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// A folder with a model of this shape in bf16 below `parent`: made if it is not there, equal
    /// whenever it is made.
    ///
    /// # Errors
    /// What the file system says.
    pub fn folder(&self, parent: &Path) -> io::Result<PathBuf> {
        let folder = parent.join(self.name);
        let done = folder.join("config.json");
        if done.exists() {
            return Ok(folder);
        }
        fs::create_dir_all(&folder)?;
        self.write_weights(&folder.join("model.safetensors"))?;
        // Last: a folder with a config is complete.
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden / self.heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
            "bos_token_id": 1,
            "eos_token_id": 2,
        });
        fs::write(done, config.to_string())?;
        Ok(folder)
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, i) = (self.hidden, self.intermediate);
        let kv = h / self.heads * self.kv_heads;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, h])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![h]),
                ("self_attn.q_proj", vec![h, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, h]),
                ("post_attention_layernorm", vec![h]),
                ("mlp.gate_proj", vec![i, h]),
                ("mlp.up_proj", vec![i, h]),
                ("mlp.down_proj", vec![h, i]),
            ] {
                all.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        all.push(("model.norm.weight".to_owned(), vec![h]));
        all
    }

    fn write_weights(&self, path: &Path) -> io::Result<()> {
        let tensors = self.tensors();
        let mut header = serde_json::Map::new();
        let mut offset = 0;
        for (name, shape) in &tensors {
            let end = offset + 2 * shape.iter().product::<usize>();
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]});
            header.insert(name.clone(), entry);
            offset = end;
        }
        let mut header = serde_json::Value::from(header).to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        let mut random = Workload::new(0x5eed);
        for (_, shape) in &tensors {
            let numbers = shape.iter().product::<usize>();
            let norm = shape.len() == 1;
            for _ in 0..numbers {
                // Norms near 1, weights within ±0.035: the spread of an initialised model.
                let x = if norm {
                    1.0
                } else {
                    (random.unit() as f32 - 0.5) * 0.07
                };
                out.write_all(&x.to_bits().to_le_bytes()[2..])?;
            }
        }
        out.flush()
    }
}
