//! A text's vector depends on that text alone, bit for bit.

use llmserve_core::Embedder;
use proptest::prelude::*;

use super::tiny::{Tiny, options};
use crate::{DType, Kernels};

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|x| x.to_bits()).collect()
}

/// Texts enough for several passes.
fn many() -> Vec<String> {
    (0..120u32)
        .map(|i| {
            let letter = |k: u32| char::from(b'a' + ((i * 7 + k * 3) % 10) as u8);
            (0..i % 23).flat_map(|k| [letter(k), ' ']).collect()
        })
        .collect()
}

#[test]
fn company_order_and_threads_leave_no_trace() {
    let texts = many();
    let tiny = Tiny::default();
    for kernels in Kernels::available() {
        for dtype in DType::ALL {
            let one = tiny.open(&options(kernels, dtype, 1)).unwrap();
            let three = tiny.open(&options(kernels, dtype, 3)).unwrap();
            assert_eq!(one.identity(), three.identity());
            let all: Vec<&str> = texts.iter().map(String::as_str).collect();
            let backwards: Vec<&str> = all.iter().rev().copied().collect();
            let together = three.embed(&all).unwrap();
            let mut reversed = one.embed(&backwards).unwrap();
            reversed.reverse();
            for ((text, a), b) in all.iter().zip(&together).zip(&reversed) {
                assert_eq!(bits(a), bits(b), "{kernels} {dtype} {text:?}");
                let alone = one.embed(&[text]).unwrap();
                assert_eq!(bits(a), bits(&alone[0]), "{kernels} {dtype} {text:?}");
            }
        }
    }
}

#[test]
fn callers_at_once_get_what_each_would_alone() {
    let tiny = Tiny::default();
    let encoder = tiny
        .open(&options(Kernels::detect(), DType::F32, 2))
        .unwrap();
    let texts = many();
    let all: Vec<&str> = texts.iter().map(String::as_str).collect();
    let want = encoder.embed(&all).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(encoder.embed(&all).unwrap(), want));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_text_the_vector_has_length_1(texts in prop::collection::vec(".{0,60}", 0..6)) {
        thread_local! {
            static ENCODER: crate::SentenceEncoder = Tiny::default().plain();
        }
        ENCODER.with(|encoder| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let vectors = encoder.embed(&texts).unwrap();
            assert_eq!(vectors.len(), texts.len());
            for (text, vector) in texts.iter().zip(vectors) {
                assert_eq!(vector.len(), encoder.dimensions());
                let squares: f64 = vector.iter().map(|&x| f64::from(x).powi(2)).sum();
                assert!((squares - 1.0).abs() < 1e-6);
                assert_eq!(bits(&encoder.embed(&[text]).unwrap()[0]), bits(&vector));
            }
        });
    }
}
