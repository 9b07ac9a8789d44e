//! What a model refuses, and what it says of itself.

use std::sync::Arc;

use llmserve_core::{BlockId, GroupId, KvLayout, LogitsWanted, Model, ModelError, StepLimits};

use super::driver::{Driver, build, golden};
use crate::{CpuModel, CpuOptions, DType, DecoderConfig, Kernels, LoadError, Weights};

fn options() -> CpuOptions {
    CpuOptions {
        threads: Some(2),
        ..CpuOptions::default()
    }
}

#[test]
fn batches_that_break_the_contract() {
    let mut driver = Driver::new(build(&golden("llama"), &options()), 4, 2, 12);
    let last = LogitsWanted::Last;
    let refused = |driver: &mut Driver, parts: &[super::driver::Part<'_>], words: &str| match driver
        .step(parts)
    {
        Err(ModelError::InvalidBatch(reason)) => assert!(reason.contains(words), "{reason}"),
        other => panic!("{words}: {other:?}"),
    };
    refused(&mut driver, &[(0, 0, &[320], last)], "token 320");
    refused(&mut driver, &[(0, 0, &[], last)], "no tokens");
    refused(&mut driver, &[(7, 0, &[1], last)], "table has 0 blocks");
    refused(&mut driver, &[(0, 12, &[1], last)], "table has 3 blocks");
    refused(&mut driver, &[(0, 300, &[1], last)], "positions");
    refused(&mut driver, &[(0, usize::MAX, &[1], last)], "positions");
    refused(
        &mut driver,
        &[(0, 0, &[1], last), (0, 1, &[1], last)],
        "two rows",
    );
    let row = (0, 0, &[1u32][..], last);
    refused(
        &mut driver,
        &[row, (1, 0, &[1], last), (2, 0, &[1], last)],
        "3 rows",
    );
    driver.tables.0[1][0] = BlockId(6);
    refused(&mut driver, &[(1, 0, &[1], last)], "block 6");
    // A block that the row reads and does not write, last and not first of all rows.
    for bad in [6, u32::MAX] {
        driver.tables.0[1][0] = BlockId(bad);
        refused(
            &mut driver,
            &[(0, 0, &[1], last), (1, 5, &[1], last)],
            &format!("row 1 (seq 1.0) names block {bad}; there are 6"),
        );
    }
    driver.tables.0[1] = vec![BlockId(5); 40];
    refused(&mut driver, &[(1, 0, &[1; 40], last)], "40 tokens");
    assert!(driver.step(&[row]).is_ok());
}

#[test]
fn layouts_and_limits_that_cannot_be_honoured() {
    let mut model = build(&golden("llama"), &options());
    assert!(
        model
            .pages()
            .read(GroupId::MAIN, BlockId(0), &mut Vec::new())
            .is_err()
    );
    let limits = StepLimits {
        tokens: 8,
        rows: 2,
        logits: 2,
    };
    let layout = |block_size, blocks: &[usize]| KvLayout {
        block_size,
        blocks: blocks.to_vec(),
    };
    for bad in [
        layout(16, &[]),
        layout(16, &[4, 4]),
        layout(0, &[4]),
        layout(16, &[0]),
        layout(usize::MAX, &[2]),
        layout(1 << 20, &[1 << 20]),
    ] {
        assert!(matches!(
            model.prepare(&bad, limits),
            Err(ModelError::Prepare(_))
        ));
    }
    let none = StepLimits {
        tokens: 0,
        ..limits
    };
    assert!(model.prepare(&layout(16, &[4]), none).is_err());
    let huge = StepLimits {
        tokens: usize::MAX / 2,
        rows: 1,
        logits: 1,
    };
    // No step has more rows than tokens: room for more is not asked for.
    let many = StepLimits {
        tokens: 8,
        rows: usize::MAX,
        logits: usize::MAX,
    };
    model.prepare(&layout(4, &[2]), many).unwrap();
    assert!(model.prepare(&layout(16, &[4]), huge).is_err());
    model.prepare(&layout(16, &[4]), limits).unwrap();
    assert_eq!(
        model.pages().page_bytes(GroupId::MAIN),
        16 * model.info().kv.groups[0].bytes_per_token
    );
}

#[test]
fn options_that_cannot_be_honoured() {
    let dir = golden("llama");
    let config = DecoderConfig::from_dir(&dir).unwrap();
    let weights = Arc::new(Weights::open(&dir).unwrap());
    let with = |options: CpuOptions| CpuModel::build(&config, weights.clone(), &options);
    let threads = |threads| CpuOptions {
        threads: Some(threads),
        ..CpuOptions::default()
    };
    assert!(matches!(
        with(threads(0)),
        Err(LoadError::InvalidOption { .. })
    ));
    assert!(matches!(
        with(threads(1 << 20)),
        Err(LoadError::Threads { .. })
    ));
    for kernels in [Kernels::Portable, Kernels::Avx2, Kernels::Avx512] {
        let built = with(CpuOptions {
            kernels: Some(kernels),
            ..options()
        });
        assert_eq!(built.is_ok(), Kernels::available().contains(&kernels));
    }
    let wrong = DecoderConfig {
        intermediate_size: 96,
        ..config.clone()
    };
    let built = CpuModel::build(&wrong, weights.clone(), &options());
    assert!(matches!(built, Err(LoadError::WrongShape { .. })));
    let biased = DecoderConfig {
        mlp_bias: true,
        ..config.clone()
    };
    let built = CpuModel::build(&biased, weights.clone(), &options());
    assert!(matches!(built, Err(LoadError::MissingTensor { .. })));
}

#[test]
fn a_model_says_what_it_is() {
    let model = build(&golden("llama"), &options());
    let info = model.info();
    assert_eq!(info.name, "LlamaForCausalLM");
    assert_eq!(info.vocab_size, 320);
    assert_eq!(info.max_context, 256);
    assert_eq!(info.eos, [1]);
    assert_eq!(
        info.backend,
        format!("cpu f32 {} 2 threads", Kernels::detect())
    );
    let bf16 = build(
        &golden("llama"),
        &CpuOptions {
            dtype: DType::BF16,
            threads: Some(1),
            name: Some("tiny".to_owned()),
            ..CpuOptions::default()
        },
    );
    assert_eq!(bf16.info().name, "tiny");
    // The same weights, rounded; other weights.
    assert_ne!(bf16.info().fingerprint, info.fingerprint);
    assert_ne!(bf16.info().kv.groups[0].layout, info.kv.groups[0].layout);
    let int8 = CpuOptions {
        dtype: DType::Int8,
        ..options()
    };
    let int8 = build(&golden("llama"), &int8);
    assert_ne!(int8.info().fingerprint, bf16.info().fingerprint);
    assert_eq!(int8.info().kv, bf16.info().kv);
    let other = build(&golden("llama3-rope"), &options());
    assert_ne!(other.info().fingerprint, info.fingerprint);
    assert_ne!(info.fingerprint, 0);
}
