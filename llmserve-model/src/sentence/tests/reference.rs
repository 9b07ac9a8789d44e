//! Against an encoder written plainly in double precision, on random weights and odd shapes.

use llmserve_core::Embedder;
use serde_json::json;

use super::tiny::{EPS, LAYERS, Tiny, options};
use crate::{DType, Kernels};

type Matrix = Vec<Vec<f64>>;

/// The vector of `ids`, by the book.
fn reference(tiny: &Tiny, ids: &[u32], mean: bool) -> Vec<f64> {
    let get = |name: &str| -> Vec<f64> { tiny.tensor(name).iter().map(|&x| x.into()).collect() };
    let (hidden, head_dim) = (tiny.hidden, tiny.hidden / tiny.heads);
    let norm = |x: &Matrix, part: &str| -> Matrix {
        let weight = get(&format!("{part}.LayerNorm.weight"));
        let bias = get(&format!("{part}.LayerNorm.bias"));
        let row = |row: &Vec<f64>| {
            let mean = row.iter().sum::<f64>() / hidden as f64;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
            let scaled = row.iter().map(|x| (x - mean) / (var + EPS).sqrt());
            scaled
                .zip(&weight)
                .zip(&bias)
                .map(|((x, w), b)| x * w + b)
                .collect()
        };
        x.iter().map(row).collect()
    };
    let linear = |x: &Matrix, part: &str| -> Matrix {
        let weight = get(&format!("{part}.weight"));
        let bias = get(&format!("{part}.bias"));
        let row = |row: &Vec<f64>| {
            let outputs = weight.chunks(row.len()).zip(&bias);
            outputs
                .map(|(w, b)| b + row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>())
                .collect()
        };
        x.iter().map(row).collect()
    };
    let add = |a: &Matrix, b: &Matrix| -> Matrix {
        let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
        a.iter().zip(b).map(row).collect()
    };

    let words = get("embeddings.word_embeddings.weight");
    let positions = get("embeddings.position_embeddings.weight");
    let types = get("embeddings.token_type_embeddings.weight");
    let embedded = |(position, &id): (usize, &u32)| {
        (0..hidden)
            .map(|i| words[id as usize * hidden + i] + positions[position * hidden + i] + types[i])
            .collect()
    };
    let mut x: Matrix = ids.iter().enumerate().map(embedded).collect();
    x = norm(&x, "embeddings");
    for layer in 0..LAYERS {
        let part = |name: &str| format!("encoder.layer.{layer}.{name}");
        let q = linear(&x, &part("attention.self.query"));
        let k = linear(&x, &part("attention.self.key"));
        let v = linear(&x, &part("attention.self.value"));
        let mut mixed = vec![vec![0.0; hidden]; x.len()];
        for head in 0..tiny.heads {
            let channels = head * head_dim..(head + 1) * head_dim;
            for (q, mixed) in q.iter().zip(&mut mixed) {
                let shares: Vec<f64> = k
                    .iter()
                    .map(|k| {
                        let dot: f64 = channels.clone().map(|c| q[c] * k[c]).sum();
                        (dot / (head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = shares.iter().sum();
                for (share, v) in shares.iter().zip(&v) {
                    channels
                        .clone()
                        .for_each(|c| mixed[c] += share / sum * v[c]);
                }
            }
        }
        x = norm(
            &add(&x, &linear(&mixed, &part("attention.output.dense"))),
            &part("attention.output"),
        );
        let mut inner = linear(&x, &part("intermediate.dense"));
        for x in inner.iter_mut().flatten() {
            *x *= 0.5 * (1.0 + erf(*x * std::f64::consts::FRAC_1_SQRT_2));
        }
        x = norm(
            &add(&x, &linear(&inner, &part("output.dense"))),
            &part("output"),
        );
    }
    let rows = if mean { x.len() } else { 1 };
    let mut vector = vec![0.0; hidden];
    for row in &x[..rows] {
        vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

/// By its Taylor series, for |x| <= 6.
fn erf(x: f64) -> f64 {
    assert!(x.abs() <= 6.0, "{x}");
    let (mut term, mut sum) = (x, x);
    for n in 1..300 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

const TEXTS: [&str; 5] = [
    "",
    "a",
    "ab cdef. a",
    "j i h g f e d c b a",
    "abcdefghij abcdefghijab",
];

#[test]
fn matches_in_every_format_at_every_level() {
    for (hidden, inner, heads) in [(20, 36, 4), (64, 33, 2), (48, 128, 1)] {
        for mean in [true, false] {
            let tiny = Tiny::new(hidden, inner, heads)
                .with(
                    "1_Pooling/config.json",
                    "pooling_mode_mean_tokens",
                    json!(mean),
                )
                .with(
                    "1_Pooling/config.json",
                    "pooling_mode_cls_token",
                    json!(!mean),
                );
            for kernels in Kernels::available() {
                for (dtype, tolerance) in [
                    (DType::F32, 3e-6),
                    (DType::BF16, 2e-2),
                    (DType::Int8, 2e-2),
                    (DType::Int4, 2e-1),
                ] {
                    let encoder = tiny.open(&options(kernels, dtype, 2)).unwrap();
                    let vectors = encoder.embed(&TEXTS).unwrap();
                    for (text, got) in TEXTS.iter().zip(vectors) {
                        let ids = encoder.tokens(text).unwrap();
                        let want = reference(&tiny, &ids, mean);
                        let worst = got
                            .iter()
                            .zip(&want)
                            .map(|(got, want)| (f64::from(*got) - want).abs())
                            .fold(0.0, f64::max);
                        assert!(worst < tolerance, "{kernels} {dtype} {text:?}: {worst:e}");
                    }
                }
            }
        }
    }
}
