//! Against the vectors that `transformers` gives with the real all-MiniLM-L6-v2.

use std::path::Path;

use llmserve_core::Embedder;
use serde::Deserialize;

use super::tiny::{minilm, options};
use crate::{DType, Kernels, SentenceEncoder};

#[derive(Deserialize)]
struct Golden {
    sentences: Vec<String>,
    token_counts: Vec<usize>,
    first_token_ids: Vec<Vec<u32>>,
    first_8: Vec<Vec<f32>>,
    cosine: Vec<Vec<f32>>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/minilm.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The largest distances of a cosine, and of one of the first eight numbers.
fn distances(encoder: &SentenceEncoder, golden: &Golden) -> (f32, f32) {
    let texts: Vec<&str> = golden.sentences.iter().map(String::as_str).collect();
    let vectors = encoder.embed(&texts).unwrap();
    let (mut cosines, mut numbers) = (0f32, 0f32);
    for (i, a) in vectors.iter().enumerate() {
        assert_eq!(a.len(), 384);
        for (j, b) in vectors.iter().enumerate() {
            let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            cosines = cosines.max((cosine - golden.cosine[i][j]).abs());
        }
        for (got, want) in a.iter().zip(&golden.first_8[i]) {
            numbers = numbers.max((got - want).abs());
        }
    }
    (cosines, numbers)
}

#[test]
fn minilm_is_what_transformers_makes_of_it() {
    let Some(dir) = minilm() else { return };
    let golden = golden();
    for kernels in Kernels::available() {
        let encoder = SentenceEncoder::open(&dir, &options(kernels, DType::F32, 2)).unwrap();
        assert_eq!((encoder.dimensions(), encoder.max_tokens()), (384, 256));
        for (i, text) in golden.sentences.iter().enumerate() {
            let ids = encoder.tokens(text).unwrap();
            assert_eq!(ids.len(), golden.token_counts[i], "{text:?}");
            let first = &golden.first_token_ids[i];
            assert_eq!(ids[..first.len()], first[..], "{text:?}");
        }
        let (cosines, numbers) = distances(&encoder, &golden);
        // The reference has six decimals.
        assert!(
            cosines < 1e-5 && numbers < 5e-6,
            "{kernels}: {cosines:e} {numbers:e}"
        );
    }
}

/// Rounded weights turn vectors by little: what a threshold has to allow for.
#[test]
fn minilm_in_fewer_bits_stays_near() {
    let Some(dir) = minilm() else { return };
    let golden = golden();
    for (dtype, most) in [
        (DType::BF16, 0.02),
        (DType::Int8, 0.02),
        (DType::Int4, 0.15),
    ] {
        let options = options(Kernels::detect(), dtype, 2);
        let encoder = SentenceEncoder::open(&dir, &options).unwrap();
        let (cosines, _) = distances(&encoder, &golden);
        eprintln!("{dtype}: cosines within {cosines:.4}");
        assert!(cosines < most, "{dtype}: {cosines}");
    }
}
