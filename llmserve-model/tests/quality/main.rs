//! What a model says of held-out text, however its weights are stored.

mod bounds;
mod heldout;
mod rescale;

use std::path::{Path, PathBuf};

use bounds::BOUNDS;
use heldout::{HeldOut, losses, perplexity};
use llmserve_core::TokenId;
use llmserve_model::{CpuModel, CpuOptions, DType, DecoderConfig, Kernels, Weights};
use rescale::{Place, Rescale};

/// Windows where all would take too long: a test's build is not optimised much.
const FEW: usize = 4;
/// Other channels with each.
const SEEDS: [u64; 3] = [1, 2, 3];

fn bard() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/bard-2m")
}

fn build(dir: &Path, dtype: DType, kernels: Kernels) -> CpuModel {
    build_with(dir, dtype, kernels, 2)
}

fn build_with(dir: &Path, dtype: DType, kernels: Kernels, threads: usize) -> CpuModel {
    let options = CpuOptions {
        dtype,
        kernels: Some(kernels),
        threads: Some(threads),
        ..CpuOptions::default()
    };
    let config = DecoderConfig::from_dir(dir).unwrap();
    CpuModel::build(&config, Weights::open(dir).unwrap().into(), &options).unwrap()
}

/// How far `found` is from `expected`, as a share of it.
fn distance(found: f64, expected: f64) -> f64 {
    (found / expected - 1.0).abs()
}

#[test]
fn held_out_text_costs_what_the_reference_says() {
    let text = HeldOut::bard().unwrap();
    for bound in &BOUNDS {
        let mut model = build(&bard(), bound.dtype, Kernels::detect());
        let found = perplexity(&mut model, &text.windows).unwrap();
        assert!(
            distance(found, text.reference) < bound.plain,
            "{}: {found} of {}",
            bound.dtype,
            text.reference
        );
    }
}

#[test]
fn every_level_says_the_same_of_a_few_windows() {
    let text = HeldOut::bard().unwrap();
    let windows = &text.windows[..FEW];
    let mut exact = build(&bard(), DType::F32, Kernels::detect());
    let exact = perplexity(&mut exact, windows).unwrap();
    for kernels in Kernels::available() {
        for bound in &BOUNDS {
            let mut model = build(&bard(), bound.dtype, kernels);
            let found = perplexity(&mut model, windows).unwrap();
            assert!(
                distance(found, exact) < bound.plain,
                "{kernels}, {}: {found} of {exact}",
                bound.dtype
            );
        }
    }
}

#[test]
fn company_chunks_and_threads_change_no_bit_of_the_loss() {
    let text = HeldOut::bard().unwrap();
    let windows = &text.windows[..FEW];
    for bound in &BOUNDS {
        let mut model = build(&bard(), bound.dtype, Kernels::detect());
        let together = losses(&mut model, windows, 512).unwrap();
        let mut model = build_with(&bard(), bound.dtype, Kernels::detect(), 1);
        let chunked = losses(&mut model, windows, 37).unwrap();
        assert_eq!(chunked, together, "{}", bound.dtype);
        for (window, loss) in windows.iter().zip(&together) {
            let alone = losses(&mut model, std::slice::from_ref(window), 256).unwrap();
            assert_eq!(alone, [*loss], "{}", bound.dtype);
        }
    }
}

/// The perplexities of rescaled models are within the bounds of what `f32` says of the plain one.
fn check(windows: &[Vec<TokenId>], rescales: &[Rescale<'_>]) {
    let mut exact = build(&bard(), DType::F32, Kernels::detect());
    let exact = perplexity(&mut exact, windows).unwrap();
    for rescale in rescales {
        let dir = tempfile::tempdir().unwrap();
        rescale.write(&bard(), dir.path()).unwrap();
        for bound in &BOUNDS {
            let Some(allowed) = bound.rescaled else {
                continue;
            };
            let mut model = build(dir.path(), bound.dtype, Kernels::detect());
            let found = perplexity(&mut model, windows).unwrap();
            assert!(
                distance(found, exact) < allowed,
                "{}, {rescale:?}: {found} of {exact}",
                bound.dtype
            );
        }
    }
}

fn in_one_place(place: Place) {
    let text = HeldOut::bard().unwrap();
    check(
        &text.windows[..FEW],
        &SEEDS.map(|seed| Rescale {
            places: std::slice::from_ref(&place),
            seed,
            ..Rescale::default()
        }),
    );
}

#[test]
fn large_channels_before_the_attention_cost_little() {
    in_one_place(Place::AttentionInput);
}

#[test]
fn large_channels_of_values_cost_little() {
    in_one_place(Place::Values);
}

#[test]
fn large_channels_before_the_mlp_cost_little() {
    in_one_place(Place::MlpInput);
}

#[test]
fn large_channels_within_the_mlp_cost_little() {
    in_one_place(Place::MlpInner);
}

#[test]
fn large_channels_before_the_head_cost_little() {
    in_one_place(Place::HeadInput);
}

#[test]
fn large_channels_everywhere_cost_little() {
    let text = HeldOut::bard().unwrap();
    check(
        &text.windows[..2 * FEW],
        &SEEDS.map(|seed| Rescale {
            seed,
            ..Rescale::default()
        }),
    );
}

/// Without this, the other tests could pass on a model that was never rescaled.
#[test]
fn rescaling_enlarges_what_it_says_and_nothing_else() {
    let before = Weights::open(&bard()).unwrap();
    for (place, made_by, enlarged, read_by, columns) in [
        (
            Place::AttentionInput,
            "input_layernorm",
            1,
            "self_attn.k_proj",
            1,
        ),
        (
            Place::Values,
            "self_attn.v_proj",
            192,
            "self_attn.o_proj",
            3,
        ),
        (
            Place::MlpInput,
            "post_attention_layernorm",
            1,
            "mlp.gate_proj",
            1,
        ),
        (Place::MlpInner, "mlp.up_proj", 3 * 192, "mlp.down_proj", 3),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let rescale = Rescale {
            places: &[place],
            ..Rescale::default()
        };
        let channels = rescale.write(&bard(), dir.path()).unwrap();
        let after = Weights::open(dir.path()).unwrap();
        assert_eq!(channels % 5, 0, "as many in each of the five layers");
        for layer in 0..5 {
            let changes = |module: &str| -> Vec<f32> {
                let name = format!("model.layers.{layer}.{module}.weight");
                let before = before.view(&name).unwrap().to_f32();
                let after = after.view(&name).unwrap().to_f32();
                let pairs = before.iter().zip(&after);
                pairs
                    .filter(|(before, after)| before != after)
                    .map(|(before, after)| after / before)
                    .collect()
            };
            let larger = changes(made_by);
            assert_eq!(larger.len(), enlarged, "{made_by}");
            assert!(larger.iter().all(|x| (x - 50.0).abs() < 0.01));
            let smaller = changes(read_by);
            let rows = smaller.len() / columns;
            assert_eq!(smaller.len() % columns, 0, "{read_by}");
            assert!(rows > 0 && smaller.iter().all(|x| (x - 0.02).abs() < 1e-5));
        }
    }
}
