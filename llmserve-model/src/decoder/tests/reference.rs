//! Against a decoder written plainly with candle, on random weights and odd shapes.

use std::collections::HashMap;

use candle_core::{D, Device, Tensor};

use super::driver::{Driver, build};
use crate::decoder::DType;
use crate::{CpuOptions, Kernels};

struct Shape {
    hidden: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    tied: bool,
    bias: bool,
    activation: &'static str,
    /// Positions are divided by this.
    linear: f32,
}

const LAYERS: usize = 2;
const EPS: f64 = 1e-5;

impl Shape {
    fn config(&self) -> String {
        format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "hidden_act": "{}", "hidden_size": {},
            "intermediate_size": {}, "num_hidden_layers": {LAYERS}, "num_attention_heads": {},
            "num_key_value_heads": {}, "head_dim": {}, "vocab_size": {},
            "max_position_embeddings": 128, "rms_norm_eps": {EPS}, "rope_theta": 10000.0,
            "rope_scaling": {{"rope_type": "linear", "factor": {}}}, "tie_word_embeddings": {},
            "attention_bias": {}, "mlp_bias": {}}}"#,
            self.activation,
            self.hidden,
            self.inner,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.vocab,
            self.linear,
            self.tied,
            self.bias,
            self.bias,
        )
    }

    fn tensors(&self) -> HashMap<String, Tensor> {
        let mut state = 12345u32;
        let mut noise = |shape: &[usize], scale: f32, shift: f32| {
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 2.0 * scale + shift
                })
                .collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = HashMap::new();
        let mut put = |name: String, tensor| all.insert(name, tensor);
        put(
            "model.embed_tokens.weight".into(),
            noise(&[self.vocab, self.hidden], 1.0, 0.0),
        );
        put("model.norm.weight".into(), noise(&[self.hidden], 0.3, 1.0));
        if !self.tied {
            put(
                "lm_head.weight".into(),
                noise(&[self.vocab, self.hidden], 0.3, 0.0),
            );
        }
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            put(
                name("input_layernorm.weight"),
                noise(&[self.hidden], 0.3, 1.0),
            );
            put(
                name("post_attention_layernorm.weight"),
                noise(&[self.hidden], 0.3, 1.0),
            );
            for (part, outputs, inputs) in [
                ("self_attn.q_proj", q, self.hidden),
                ("self_attn.k_proj", kv, self.hidden),
                ("self_attn.v_proj", kv, self.hidden),
                ("self_attn.o_proj", self.hidden, q),
                ("mlp.gate_proj", self.inner, self.hidden),
                ("mlp.up_proj", self.inner, self.hidden),
                ("mlp.down_proj", self.hidden, self.inner),
            ] {
                put(
                    name(&format!("{part}.weight")),
                    noise(&[outputs, inputs], 0.25, 0.0),
                );
                if self.bias {
                    put(name(&format!("{part}.bias")), noise(&[outputs], 0.5, 0.0));
                }
            }
        }
        all
    }

    /// Logits of all positions, by the book.
    fn reference(&self, w: &HashMap<String, Tensor>, ids: &[u32]) -> candle_core::Result<Tensor> {
        let len = ids.len();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let linear = |x: &Tensor, name: &str| -> candle_core::Result<Tensor> {
            let y = x.matmul(&w[&format!("{name}.weight")].t()?)?;
            match w.get(&format!("{name}.bias")) {
                Some(bias) => y.broadcast_add(bias),
                None => Ok(y),
            }
        };
        let norm = |x: &Tensor, name: &str| candle_nn::ops::rms_norm(x, &w[name], EPS as f32);
        let half = self.head_dim / 2;
        let mut angles = Vec::new();
        for position in 0..len {
            for pair in 0..half {
                let frequency = 10_000f64.powf(-2.0 * pair as f64 / self.head_dim as f64);
                angles.push(position as f32 * (frequency / f64::from(self.linear)) as f32);
            }
        }
        let angles = Tensor::from_vec(angles, (len, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        // (len, heads * dim) to (1, heads, len, dim)
        let split = |x: Tensor, heads: usize| -> candle_core::Result<Tensor> {
            x.reshape((1, len, heads, self.head_dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let repeat = |x: Tensor| -> candle_core::Result<Tensor> {
            let times = self.heads / self.kv_heads;
            x.unsqueeze(2)?
                .expand((1, self.kv_heads, times, len, self.head_dim))?
                .reshape((1, self.heads, len, self.head_dim))
        };
        let mask: Vec<f32> = (0..len * len)
            .map(|i| {
                if i % len > i / len {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        let mask = Tensor::from_vec(mask, (len, len), &Device::Cpu)?;

        let mut x = w["model.embed_tokens.weight"].index_select(&ids, 0)?;
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let normed = norm(&x, &name("input_layernorm.weight"))?;
            let q = split(linear(&normed, &name("self_attn.q_proj"))?, self.heads)?;
            let k = split(linear(&normed, &name("self_attn.k_proj"))?, self.kv_heads)?;
            let v = split(linear(&normed, &name("self_attn.v_proj"))?, self.kv_heads)?;
            let q = candle_nn::rotary_emb::rope(&q, &cos, &sin)?;
            let k = repeat(candle_nn::rotary_emb::rope(&k, &cos, &sin)?)?;
            let v = repeat(v)?;
            let scores = (q.matmul(&k.t()?)? / (self.head_dim as f64).sqrt())?;
            let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
            let mixed = p.matmul(&v.contiguous()?)?.transpose(1, 2)?;
            let mixed = mixed.reshape((len, self.heads * self.head_dim))?;
            x = (x + linear(&mixed, &name("self_attn.o_proj"))?)?;
            let normed = norm(&x, &name("post_attention_layernorm.weight"))?;
            let gate = linear(&normed, &name("mlp.gate_proj"))?;
            let gate = match self.activation {
                "silu" => gate.silu()?,
                "gelu" => gate.gelu_erf()?,
                _ => gate.gelu()?,
            };
            let inner = (gate * linear(&normed, &name("mlp.up_proj"))?)?;
            x = (x + linear(&inner, &name("mlp.down_proj"))?)?;
        }
        let x = norm(&x, "model.norm.weight")?;
        let head = w
            .get("lm_head.weight")
            .unwrap_or(&w["model.embed_tokens.weight"]);
        x.matmul(&head.t()?)
    }

    fn check(&self) {
        let dir = tempfile::tempdir().unwrap();
        let tensors = self.tensors();
        std::fs::write(dir.path().join("config.json"), self.config()).unwrap();
        candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
        let ids: Vec<u32> = (0..37)
            .map(|i| (i * i * 5 + 3) % self.vocab as u32)
            .collect();
        let expected = self
            .reference(&tensors, &ids)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (dtype, tolerance) in [
            (DType::F32, 5e-4),
            (DType::BF16, 0.12),
            (DType::Int8, 0.12),
            (DType::Int4, 0.7),
        ] {
            for kernels in Kernels::available() {
                let options = CpuOptions {
                    dtype,
                    kernels: Some(kernels),
                    threads: Some(2),
                    ..CpuOptions::default()
                };
                let got = Driver::new(build(dir.path(), &options), 16, 1, 40).all(0, &ids, 10);
                assert_eq!(got.len(), expected.len());
                for (got, expected) in got.iter().zip(&expected) {
                    let size = expected.iter().map(|x| x.abs()).fold(1.0, f32::max);
                    for (got, expected) in got.iter().zip(expected) {
                        let error = (got - expected).abs() / size;
                        assert!(error < tolerance, "{kernels}, {dtype}: {got} {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn multi_query_with_biases_and_an_odd_head() {
    Shape {
        hidden: 40,
        inner: 72,
        heads: 5,
        kv_heads: 1,
        head_dim: 24,
        vocab: 101,
        tied: true,
        bias: true,
        activation: "silu",
        linear: 1.0,
    }
    .check();
}

#[test]
fn multi_head_with_a_wide_head_and_stretched_positions() {
    Shape {
        hidden: 48,
        inner: 33,
        heads: 3,
        kv_heads: 3,
        head_dim: 64,
        vocab: 64,
        tied: false,
        bias: false,
        activation: "gelu_pytorch_tanh",
        linear: 4.0,
    }
    .check();
}

#[test]
fn many_heads_to_one_and_the_other_gelu() {
    Shape {
        hidden: 64,
        inner: 100,
        heads: 22,
        kv_heads: 2,
        head_dim: 10,
        vocab: 70,
        tied: false,
        bias: true,
        activation: "gelu",
        linear: 2.0,
    }
    .check();
}
