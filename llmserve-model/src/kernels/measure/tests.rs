use super::attention::Attending;
use super::product::panel;
use super::*;
use crate::kernels::attention::{Bf16, F32, KvFormat};
use crate::kernels::gemm::{Output, Put, gemm};
use crate::kernels::inputs::{Inputs, Source};
use crate::kernels::levels;
use crate::kernels::packed::PANEL;
use crate::kernels::tiling::Tiling;

/// Little memory and no time: what is counted does not depend on them.
fn bench(kernels: Kernels) -> KernelBench {
    let bench = KernelBench::new(kernels, 2).unwrap();
    bench.time(Duration::from_micros(10)).memory(1 << 16)
}

const ATTENTION: AttentionShape = AttentionShape {
    kv: DType::BF16,
    heads: 6,
    kv_heads: 2,
    head_dim: 16,
    sequences: 3,
    context: 37,
    new_tokens: 5,
};

#[test]
fn a_product_reads_its_weights_once_and_multiplies_each_with_every_row() {
    for kernels in Kernels::available() {
        for (dtype, bytes) in [
            (DType::F32, 64 * 96 * 4),
            (DType::BF16, 64 * 96 * 2),
            // A scale for each column.
            (DType::Int8, 64 * 96 + 4 * 96),
            // And one of two bytes for 32 channels.
            (DType::Int4, 64 * 96 / 2 + 2 * 2 * 96),
        ] {
            for paired in [false, true] {
                let shape = ProductShape {
                    dtype,
                    depth: 64,
                    columns: 96,
                    paired,
                };
                let matrices = if paired { 2 } else { 1 };
                let samples = bench(kernels).product(shape, &[1, 13]).unwrap();
                for (sample, rows) in samples.iter().zip([1, 13]) {
                    // The factors of the channels are read when rows are converted, and few.
                    let factors = sample.bytes - f64::from(matrices * bytes);
                    assert_eq!(factors, 4.0 * 64.0, "{dtype} {paired}");
                    assert_eq!(sample.flops, f64::from(2 * matrices * 64 * 96 * rows));
                    assert_eq!(sample.numbers, dtype);
                    assert!(sample.seconds > 0.0 && sample.seconds.is_finite());
                }
            }
        }
    }
}

#[test]
fn repeated_panels_give_repeated_results() {
    let mut team = ThreadTeam::new(2).unwrap();
    let (depth, rows, columns) = (130, 5, 3 * PANEL + 7);
    let mut data = vec![0.0; rows * depth];
    noise(&mut data);
    for dtype in DType::ALL {
        for paired in [false, true] {
            let one = panel(&mut team, levels()[0], dtype, depth, paired).unwrap();
            let many = one.repeated(columns).unwrap();
            let matrices = if paired { 2 } else { 1 };
            assert_eq!((one.panels, many.panels), (matrices, 4 * matrices));
            for level in levels() {
                let mut product = |weights: &crate::kernels::packed::Packed| {
                    let mut inputs = Inputs::try_new(&[(rows, depth)], dtype.format()).unwrap();
                    let tiling = Tiling::new(rows, level.tile_rows(dtype.format()));
                    let source = Source {
                        data: &data,
                        norm: None,
                    };
                    let filled = inputs
                        .fill(&mut team, level, weights, tiling, source)
                        .unwrap();
                    let mut out = vec![f32::NAN; rows * weights.columns];
                    let put = if paired {
                        Put::Gated(crate::config::Activation::Silu)
                    } else {
                        Put::Store
                    };
                    let output = Output {
                        out: &mut out,
                        stride: weights.columns,
                        put,
                    };
                    gemm(&mut team, level, filled, weights, output).unwrap();
                    out
                };
                let (narrow, wide) = (product(&one), product(&many));
                assert!(narrow.iter().any(|&x| x != 0.0));
                for (at, x) in wide.iter().enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let same = narrow[row * PANEL + column % PANEL];
                    assert_eq!(x.to_bits(), same.to_bits(), "{level:?} {dtype} {paired}");
                }
            }
        }
    }
}

#[test]
fn a_conversion_counts_rows_words_and_scales() {
    for (dtype, words) in [
        (DType::F32, 300),
        (DType::BF16, 150),
        // Three groups of 128 channels, ten of 32: a scale and an offset each.
        (DType::Int8, 75 + 2 * 3),
        (DType::Int4, 76 + 2 * 10),
    ] {
        let sample = bench(Kernels::Portable).conversion(dtype, 300, 7).unwrap();
        assert_eq!(sample.bytes, f64::from(4 * 7 * (300 + words)), "{dtype}");
        assert_eq!(sample.flops, f64::from(4 * 7 * 300));
    }
}

#[test]
fn attention_counts_every_position_once_and_every_pair_that_is_seen() {
    for (kv, size) in [(DType::F32, 4), (DType::BF16, 2)] {
        let shape = AttentionShape { kv, ..ATTENTION };
        let sample = bench(Kernels::detect()).attention(shape).unwrap();
        assert_eq!(sample.bytes, f64::from(3 * 37 * 2 * 2 * 16 * size));
        // Positions 32 to 36 see 33 to 37.
        let seen = 33 + 34 + 35 + 36 + 37;
        assert_eq!(sample.flops, f64::from(4 * 6 * 16 * 3 * seen));
        let sample = bench(Kernels::detect()).cache_write(shape).unwrap();
        let numbers = 3 * 5 * 2 * 2 * 16;
        assert_eq!(sample.bytes, f64::from(numbers * (4 + size)));
        assert_eq!(sample.flops, f64::from(numbers / 2 * 3));
    }
}

/// That the pages are full and every result is written: a kernel that skipped work would look fast.
fn attends<F: KvFormat>(kv: DType) {
    let mut team = ThreadTeam::new(2).unwrap();
    for level in levels() {
        let shape = AttentionShape { kv, ..ATTENTION };
        let mut attending = Attending::<F>::try_new(&mut team, level, shape, 2).unwrap();
        for group in 0..2 {
            attending.out.fill(f32::NAN);
            attending.attend(&mut team, level, group).unwrap();
            assert_eq!(attending.out.len(), 3 * 5 * 6 * 16);
            let real = |x: &f32| x.is_finite() && *x != 0.0;
            assert!(attending.out.iter().all(real), "{level:?} {kv} {group}");
        }
    }
}

#[test]
fn heads_of_any_even_size_can_be_measured() {
    for head_dim in [2, 24, 40] {
        for kv in [DType::F32, DType::BF16] {
            let shape = AttentionShape {
                kv,
                head_dim,
                ..ATTENTION
            };
            bench(Kernels::detect()).attention(shape).unwrap();
        }
    }
}

#[test]
fn attention_is_measured_on_real_numbers() {
    attends::<F32>(DType::F32);
    attends::<Bf16>(DType::BF16);
}

#[test]
fn sizes_that_make_no_sense_are_typed_errors() {
    let mut bench = bench(Kernels::Portable);
    let option = |result: Result<(), LoadError>| match result {
        Err(LoadError::InvalidOption { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    for bad in [0, MOST + 1, usize::MAX] {
        let shape = ProductShape {
            dtype: DType::BF16,
            depth: 8,
            columns: 8,
            paired: false,
        };
        let product = bench.product(shape, &[1, bad]).map(drop);
        assert_eq!(option(product), "rows");
        let deep = ProductShape {
            depth: bad,
            ..shape
        };
        assert_eq!(option(bench.product(deep, &[1]).map(drop)), "depth");
        let wide = ProductShape {
            columns: bad,
            ..shape
        };
        assert_eq!(option(bench.product(wide, &[1]).map(drop)), "columns");
        let conversion = bench.conversion(DType::Int4, bad, 1).map(drop);
        assert_eq!(option(conversion), "width");
    }
    for (shape, name) in [
        (
            AttentionShape {
                kv: DType::Int8,
                ..ATTENTION
            },
            "kv",
        ),
        (
            AttentionShape {
                heads: 7,
                ..ATTENTION
            },
            "heads",
        ),
        (
            AttentionShape {
                head_dim: 15,
                ..ATTENTION
            },
            "head_dim",
        ),
        (
            AttentionShape {
                new_tokens: 38,
                ..ATTENTION
            },
            "new_tokens",
        ),
        (
            AttentionShape {
                kv_heads: 0,
                ..ATTENTION
            },
            "kv_heads",
        ),
        // More blocks than have numbers.
        (
            AttentionShape {
                sequences: MOST,
                context: MOST,
                ..ATTENTION
            },
            "shape",
        ),
    ] {
        assert_eq!(option(bench.attention(shape).map(drop)), name);
        assert_eq!(option(bench.cache_write(shape).map(drop)), name);
    }
}

#[test]
fn a_sample_is_held_against_what_limits_it() {
    let ceiling = Ceiling {
        threads: 1,
        read_gb_s: 10.0,
        f32_gflop_s: 100.0,
        bf16_gflop_s: 200.0,
        int8_gflop_s: 400.0,
    };
    let sample = |numbers, flops| Sample {
        seconds: 2.0,
        bytes: 10e9,
        flops,
        numbers,
    };
    let reads = sample(DType::F32, 50e9);
    assert_eq!(reads.bound(&ceiling), Bound::Memory);
    assert_eq!((reads.share(&ceiling), reads.gb_s()), (0.5, 5.0));
    for (numbers, share) in [
        (DType::F32, 2.0),
        (DType::BF16, 1.0),
        (DType::Int8, 0.5),
        (DType::Int4, 0.5),
    ] {
        let computes = sample(numbers, 400e9);
        assert_eq!(computes.share(&ceiling), share);
        assert_eq!(computes.gflop_s(), 200.0);
    }
    let computes = sample(DType::BF16, 400e9);
    assert_eq!(computes.bound(&ceiling), Bound::Arithmetic);
}

#[test]
fn calls_go_on_from_pass_to_pass_and_errors_come_through() {
    let mut calls = Vec::new();
    let seconds = best(Duration::ZERO, |call| {
        calls.push(call);
        Ok(())
    });
    assert!(seconds.unwrap() >= 0.0);
    assert_eq!(calls, (0..calls.len()).collect::<Vec<_>>());
    let failure = best(Duration::ZERO, |_| {
        Err(TaskPanicked {
            message: "no".to_owned(),
        })
    });
    assert!(matches!(failure, Err(LoadError::Threads { .. })));
}
