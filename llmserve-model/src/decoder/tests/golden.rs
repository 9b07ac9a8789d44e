//! Against the outputs of `transformers`.

use std::path::Path;

use serde::Deserialize;

use super::driver::{Driver, build, golden};
use crate::{CpuOptions, DType, Kernels};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    greedy_margins: Vec<f32>,
    first_step_top8: Vec<(u32, f32)>,
    first_step_logsumexp: f32,
}

/// Checks every case: ids up to the first margin below `margin`, first logits within `tolerance`.
fn check(dir: &Path, golden: &Path, options: &CpuOptions, margin: f32, tolerance: f32) {
    let text = std::fs::read_to_string(golden).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let most = golden
        .cases
        .iter()
        .map(|c| c.prompt_ids.len() + c.greedy_ids.len())
        .max();
    let mut driver = Driver::new(build(dir, options), 16, 1, most.unwrap());
    for case in &golden.cases {
        let (ids, first) = driver.greedy(&case.prompt_ids, case.greedy_ids.len());
        let decided = case.greedy_margins.iter().position(|&m| m < margin);
        let decided = decided.unwrap_or(case.greedy_ids.len());
        let got: Vec<u32> = ids.iter().map(|&(id, _)| id).collect();
        assert_eq!(got[..decided], case.greedy_ids[..decided], "{options:?}");
        for &(id, logit) in &case.first_step_top8 {
            let error = (first[id as usize] - logit).abs();
            assert!(
                error < tolerance,
                "{options:?}: logit {id} is off by {error}"
            );
        }
        let sum: f64 = first.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((sum.ln() - f64::from(case.first_step_logsumexp)).abs() < f64::from(tolerance));
    }
}

#[test]
fn tiny_models_match_in_f32_at_every_level() {
    for name in ["llama", "llama3-rope", "qwen2"] {
        for kernels in Kernels::available() {
            let options = CpuOptions {
                kernels: Some(kernels),
                threads: Some(2),
                ..CpuOptions::default()
            };
            let dir = golden(name);
            check(&dir, &dir.join("golden.json"), &options, 0.001, 1e-3);
        }
    }
}

#[test]
fn a_trained_model_matches_in_f32_and_bf16_at_every_level() {
    let bard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/bard-2m");
    for (dtype, margin, tolerance) in [(DType::F32, 0.001, 1e-3), (DType::BF16, 0.15, 0.05)] {
        for kernels in Kernels::available() {
            let options = CpuOptions {
                dtype,
                kernels: Some(kernels),
                threads: Some(2),
                ..CpuOptions::default()
            };
            check(&bard, &golden("bard-2m.json"), &options, margin, tolerance);
        }
    }
}
