//! What a step must read and compute, from the model's sizes, and the least time that can take.

use std::ops::AddAssign;

use llmserve::model::{Ceiling, DecoderConfig};

use crate::{Format, Step};

/// Sizes of a model's weights and keys and values.
///
/// Counted are the products with weights, biases' bytes, and attention's two products over the
/// positions each token sees. Not counted are norms, rotation, softmax and the embedding's rows,
/// which are small beside them, and writing keys, values and activations.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    format: Format,
    cache: Format,
    /// Of all layers.
    layers: Weights,
    /// What of `layers` a step that wants no logits leaves out: the last layer past its values.
    unneeded: Weights,
    /// Operations of attention, by position seen, in a layer.
    pair_flops: f64,
    num_layers: f64,
    head: Weights,
    /// Bytes of keys and values of a token.
    kv_bytes: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weights {
    /// Numbers, padding not counted.
    numbers: f64,
    /// Bytes, padding, scales and biases counted.
    bytes: f64,
}

impl Cost {
    /// The cost of a model with weights in `format` that keeps `kv_bytes` bytes a token in its
    /// cache, all layers together.
    pub fn new(config: &DecoderConfig, format: Format, kv_bytes: usize) -> Self {
        let matrix = |rows: usize, columns: usize, bias: bool| Weights {
            numbers: (rows * columns) as f64,
            bytes: (format.packing().packed_bytes(rows, columns)
                + if bias { 4 * columns } else { 0 }) as f64,
        };
        let &DecoderConfig {
            hidden_size: hidden,
            intermediate_size: intermediate,
            num_heads,
            num_kv_heads,
            head_dim,
            num_layers,
            ..
        } = config;
        let heads = num_heads + 2 * num_kv_heads;
        let qkv = matrix(hidden, heads * head_dim, config.attention_bias);
        let mut rest = matrix(num_heads * head_dim, hidden, config.output_bias);
        rest.add(matrix(hidden, intermediate, config.mlp_bias), 2.0);
        rest.add(matrix(intermediate, hidden, config.mlp_bias), 1.0);
        let mut layers = Weights::default();
        layers.add(qkv, num_layers as f64);
        layers.add(rest, num_layers as f64);
        let cached = 2 * num_layers * num_kv_heads * head_dim;
        Self {
            format,
            // A cache that is neither is multiplied as weights are.
            cache: Format::of_cache(kv_bytes / cached).unwrap_or(format),
            layers,
            unneeded: rest,
            pair_flops: (4 * num_heads * head_dim) as f64,
            num_layers: num_layers as f64,
            head: matrix(hidden, config.vocab_size, false),
            kv_bytes: kv_bytes as f64,
        }
    }

    /// Bytes of keys and values of a token.
    pub fn kv_bytes(&self) -> f64 {
        self.kv_bytes
    }

    /// What a step reads and computes.
    pub fn work(&self, step: &Step) -> Work {
        let (mut layers, mut attending) = (self.layers, self.num_layers);
        if step.logits == 0 {
            layers.add(self.unneeded, -1.0);
            attending -= 1.0;
        } else {
            layers.bytes += self.head.bytes;
        }
        let kv_bytes = self.kv_bytes * attending / self.num_layers;
        Work {
            bytes: layers.bytes + step.context as f64 * kv_bytes,
            linear_flops: 2.0 * layers.numbers * step.tokens as f64
                + 2.0 * self.head.numbers * step.logits as f64,
            attention_flops: attending * self.pair_flops * step.visible as f64,
        }
    }

    /// The least seconds that a step's work takes: the longer of reading and of computing.
    pub fn least_seconds(&self, work: &Work, ceiling: &Ceiling) -> f64 {
        let read = work.bytes / (ceiling.read_gb_s * 1e9);
        let computed =
            work.linear_flops / self.format.peak(ceiling) + self.attention_seconds(work, ceiling);
        read.max(computed)
    }

    /// The least seconds that attention's products take, by arithmetic alone.
    pub fn attention_seconds(&self, work: &Work, ceiling: &Ceiling) -> f64 {
        work.attention_flops / self.cache.peak(ceiling)
    }
}

impl Weights {
    fn add(&mut self, other: Self, times: f64) {
        self.numbers += times * other.numbers;
        self.bytes += times * other.bytes;
    }
}

/// Bytes read and operations done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of weights, and of keys and values, each row's once.
    pub bytes: f64,
    /// Operations of products with weights: two for each weight and token.
    pub linear_flops: f64,
    /// Operations of attention: four for each dimension, head and position seen.
    pub attention_flops: f64,
}

impl Work {
    /// All operations.
    pub fn flops(&self) -> f64 {
        self.linear_flops + self.attention_flops
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.linear_flops += other.linear_flops;
        self.attention_flops += other.attention_flops;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn config() -> DecoderConfig {
        let text = r#"{
            "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0
        }"#;
        DecoderConfig::from_json(text, None).unwrap()
    }

    fn step(tokens: usize, logits: usize, context: usize, visible: usize) -> Step {
        Step {
            began: Instant::now(),
            ended: Instant::now(),
            inside: Duration::ZERO,
            rows: 1,
            tokens,
            logits,
            context,
            visible,
        }
    }

    /// qkv 64 × 128, output 64 × 64, gate and up 64 × 96 each, down 96 × 64.
    const QKV: f64 = (64 * 128) as f64;
    const REST: f64 = (64 * 64 + 3 * 64 * 96) as f64;
    const HEAD: f64 = (64 * 320) as f64;
    /// Keys and values of three layers: two heads of 16 dimensions, two bytes each.
    const KV: usize = 2 * 3 * 2 * 16 * 2;

    #[test]
    fn a_decoded_token_reads_all_weights_and_its_context() {
        let cost = Cost::new(&config(), Format::Bf16, KV);
        let work = cost.work(&step(1, 1, 10, 10));
        let weights = 3.0 * (QKV + REST) + HEAD;
        assert_eq!(work.bytes, 2.0 * weights + (10 * KV) as f64);
        assert_eq!(work.linear_flops, 2.0 * weights);
        assert_eq!(work.attention_flops, (4 * 3 * 64 * 10) as f64);
    }

    #[test]
    fn the_middle_of_a_prompt_leaves_the_head_and_most_of_the_last_layer_out() {
        let cost = Cost::new(&config(), Format::F32, 2 * KV);
        let work = cost.work(&step(5, 0, 5, 15));
        let weights = 3.0 * QKV + 2.0 * REST;
        assert_eq!(work.linear_flops, 2.0 * 5.0 * weights);
        assert_eq!(work.bytes, 4.0 * weights + (5 * 2 * KV) as f64 * 2.0 / 3.0);
        assert_eq!(work.attention_flops, (4 * 2 * 64 * 15) as f64);
    }

    #[test]
    fn biases_are_read_but_not_multiplied() {
        let mut biased = config();
        biased.attention_bias = true;
        biased.mlp_bias = true;
        let of = |config| Cost::new(config, Format::Bf16, KV).work(&step(1, 1, 1, 1));
        let (with, without) = (of(&biased), of(&config()));
        let columns = 128 + 2 * 96 + 64;
        assert_eq!(with.bytes - without.bytes, (3 * 4 * columns) as f64);
        assert_eq!(with.flops(), without.flops());
    }
}
