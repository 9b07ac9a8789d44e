use proptest::prelude::*;

use super::*;
use crate::decoder::DType;
use crate::kernels::inputs::{Inputs, Source};
use crate::kernels::levels;
use crate::kernels::packed::{Arrangement, Linear};
use crate::kernels::tiling::Tiling;
use crate::weights::{FileDType, TensorView};

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        })
        .collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn view<'a>(bytes: &'a [u8], shape: &[usize]) -> TensorView<'a> {
    TensorView {
        name: "w".to_owned(),
        dtype: FileDType::F32,
        shape: shape.to_vec(),
        bytes,
    }
}

/// Packs one layer.
fn pack(dtype: DType, depth: usize, weight: &[f32], bias: Option<&[f32]>) -> Packed {
    let columns = weight.len() / depth;
    let (weight, bias) = (bytes(weight), bias.map(bytes));
    let layer = Linear {
        weight: view(&weight, &[columns, depth]),
        bias: bias.as_deref().map(|bias| view(bias, &[columns])),
    };
    let mut team = ThreadTeam::new(2).unwrap();
    let arrangement = Arrangement::Concatenated;
    Packed::new(&mut team, dtype, depth, &[layer], arrangement, None).unwrap()
}

/// Rows 0, 1, … of `x` times the packed matrix.
fn product(level: Level, threads: usize, x: &[f32], rows: usize, packed: &Packed) -> Vec<f32> {
    let stride = packed.columns;
    let mut out = vec![f32::NAN; rows * stride];
    put(
        level,
        threads,
        x,
        rows,
        packed,
        &mut out,
        stride,
        Put::Store,
    );
    out
}

#[allow(clippy::too_many_arguments)]
fn put(
    level: Level,
    threads: usize,
    x: &[f32],
    rows: usize,
    packed: &Packed,
    out: &mut [f32],
    stride: usize,
    put: Put,
) {
    let mut team = ThreadTeam::new(threads).unwrap();
    let tiling = Tiling::new(rows, level.tile_rows(packed.format));
    let mut inputs = Inputs::try_new(&[(rows, packed.depth)], packed.format).unwrap();
    let source = Source {
        data: x,
        norm: None,
    };
    let rows = inputs
        .fill(&mut team, level, packed, tiling, source)
        .unwrap();
    gemm(&mut team, level, rows, packed, Output { out, stride, put }).unwrap();
}

/// What rounding may do to a sum of `depth` products of numbers up to `x` and `w`.
fn tolerance(dtype: DType, depth: usize, x: f32, w: f32) -> f64 {
    let (x, w, depth) = (f64::from(x), f64::from(w), depth as f64);
    // Half a step of each operand, as its type has them; errors add up like a random walk, of
    // which this is several deviations.
    let (activations, weights) = match dtype {
        DType::F32 => (1e-7, 1e-7),
        DType::BF16 => (1.0 / 512.0, 1.0 / 512.0),
        DType::Int8 => (0.5 / 127.0, 0.5 / 127.0),
        DType::Int4 => (0.5 / 127.0, 0.5 / 6.0),
    };
    4.0 * depth.sqrt() * x * w * (activations + weights) + 1e-6
}

fn exact(x: &[f32], weight: &[f32], depth: usize, row: usize, column: usize) -> f64 {
    (0..depth)
        .map(|k| f64::from(x[row * depth + k]) * f64::from(weight[column * depth + k]))
        .sum()
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn matches_the_naive_product_and_ignores_the_neighbours() {
    for (depth, columns) in [(1, 1), (7, 31), (24, 33), (64, 130), (161, 300), (300, 40)] {
        let weight = noise(columns * depth, 3);
        let bias = noise(columns, 4);
        let x = noise(64 * depth, 5);
        for dtype in DType::ALL {
            let packed = pack(dtype, depth, &weight, Some(&bias));
            for level in levels() {
                let together = product(level, 2, &x, 64, &packed);
                for (at, &got) in together.iter().enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let want = exact(&x, &weight, depth, row, column) + f64::from(bias[column]);
                    assert!(
                        (f64::from(got) - want).abs() < tolerance(dtype, depth, 0.5, 0.5),
                        "{level:?} {dtype} {depth}x{columns} row {row} column {column}: {got} {want}"
                    );
                }
                // Every number of rows up to a tile and a bit, and each row alone.
                for rows in 1..=15 {
                    let some = product(level, 1, &x[..rows * depth], rows, &packed);
                    assert!(
                        same(&some, &together[..rows * columns]),
                        "{level:?} {dtype} {rows}"
                    );
                }
                for row in (0..64).step_by(7) {
                    let one = product(level, 3, &x[row * depth..(row + 1) * depth], 1, &packed);
                    assert!(same(&one, &together[row * columns..(row + 1) * columns]));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random shapes, scales of channels and rows, zeros and huge numbers among them.
    #[test]
    fn every_level_agrees_with_the_portable_one(
        depth in 1usize..330,
        columns in 1usize..90,
        rows in 1usize..30,
        seed in any::<u32>(),
        spread in 0i32..12,
    ) {
        let scale = |i: usize| 2f32.powi(((i as u32 ^ seed) % (2 * spread as u32 + 1)) as i32 - spread);
        let mut weight = noise(columns * depth, seed);
        let mut x = noise(rows * depth, !seed);
        for (i, w) in weight.iter_mut().enumerate() {
            *w *= if (i as u32 ^ seed).is_multiple_of(13) { 0.0 } else { scale(i / depth) };
        }
        for (i, x) in x.iter_mut().enumerate() {
            *x *= if (i as u32 ^ seed).is_multiple_of(11) { 0.0 } else { scale(i / depth) };
        }
        for dtype in DType::ALL {
            let packed = pack(dtype, depth, &weight, None);
            let portable = product(levels()[0], 1, &x, rows, &packed);
            for level in levels() {
                let got = product(level, 2, &x, rows, &packed);
                for (at, (a, b)) in got.iter().zip(&portable).enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let size: f32 = (0..depth)
                        .map(|k| (x[row * depth + k] * weight[column * depth + k]).abs())
                        .sum();
                    prop_assert!(
                        (a - b).abs() <= 2e-5 * size + 1e-30,
                        "{:?} {} {}x{} at {}: {} {}", level, dtype, depth, columns, at, a, b
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_comes_out_as_such_and_only_in_its_row() {
    let (depth, columns) = (150, 40);
    let weight = noise(columns * depth, 1);
    for dtype in DType::ALL {
        let packed = pack(dtype, depth, &weight, None);
        for level in levels() {
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = noise(5 * depth, 2);
                let whole = product(level, 1, &x, 5, &packed);
                x[2 * depth + 131] = broken;
                let got = product(level, 1, &x, 5, &packed);
                for row in 0..5 {
                    let range = row * columns..(row + 1) * columns;
                    match row {
                        2 => assert!(
                            got[range].iter().all(|y| !y.is_finite()),
                            "{level:?} {dtype}"
                        ),
                        _ => assert!(same(&got[range.clone()], &whole[range])),
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_zeros_and_of_the_smallest_numbers_give_zeros() {
    let (depth, columns) = (70, 33);
    let weight = noise(columns * depth, 1);
    for dtype in DType::ALL {
        let packed = pack(dtype, depth, &weight, None);
        for level in levels() {
            for tiny in [0.0, -0.0, f32::from_bits(1), 1e-40] {
                let got = product(level, 1, &vec![tiny; 2 * depth], 2, &packed);
                assert!(got.iter().all(|y| y.abs() < 1e-30), "{level:?} {dtype}");
            }
        }
    }
}

#[test]
fn channels_with_large_activations_and_small_weights_cost_no_precision() {
    let (depth, columns, rows) = (192, 64, 6);
    let (weight, x) = (noise(columns * depth, 1), noise(rows * depth, 2));
    let error = |weight: &[f32], x: &[f32], dtype| -> f64 {
        let packed = pack(dtype, depth, weight, None);
        let got = product(levels()[0], 1, x, rows, &packed);
        let off = got.iter().enumerate().map(|(at, &got)| {
            let exact = exact(x, weight, depth, at / columns, at % columns);
            (f64::from(got) - exact).powi(2)
        });
        off.sum::<f64>().sqrt()
    };
    for dtype in [DType::Int8, DType::Int4] {
        let plain = error(&weight, &x, dtype);
        for factor in [50.0, 1000.0] {
            let (mut weight, mut x) = (weight.clone(), x.clone());
            for channel in [17, 130] {
                for row in weight.chunks_exact_mut(depth) {
                    row[channel] /= factor;
                }
                for row in x.chunks_exact_mut(depth) {
                    row[channel] *= factor;
                }
            }
            let rescaled = error(&weight, &x, dtype);
            assert!(
                rescaled < 1.15 * plain,
                "{dtype} {factor}: {rescaled} {plain}"
            );
        }
    }
}

#[test]
fn fused_levels_agree_to_the_bit() {
    let fused = levels().into_iter().skip(1);
    let (depth, columns) = (77, 65);
    let packed = pack(DType::F32, depth, &noise(columns * depth, 8), None);
    let x = noise(9 * depth, 9);
    let results: Vec<_> = fused.map(|l| product(l, 1, &x, 9, &packed)).collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn units_and_the_residual_are_what_they_say() {
    let mut team = ThreadTeam::new(2).unwrap();
    let (depth, inner) = (20, 45);
    let (gate, up) = (noise(inner * depth, 1), noise(inner * depth, 2));
    let (gate_bytes, up_bytes) = (bytes(&gate), bytes(&up));
    let x = noise(30 * depth, 6);
    for level in levels() {
        let linear = |bytes| Linear {
            weight: view(bytes, &[inner, depth]),
            bias: None,
        };
        let layers = [linear(&gate_bytes), linear(&up_bytes)];
        let paired = Arrangement::Paired;
        let packed = Packed::new(&mut team, DType::F32, depth, &layers, paired, None).unwrap();
        for rows in [1, 2, 5, 30] {
            let mut out = vec![f32::NAN; rows * inner];
            let x = &x[..rows * depth];
            let gated = Put::Gated(Activation::Silu);
            put(level, 2, x, rows, &packed, &mut out, inner, gated);
            for (at, &got) in out.iter().enumerate() {
                let (row, column) = (at / inner, at % inner);
                let gate = exact(x, &gate, depth, row, column);
                let want = gate / (1.0 + (-gate).exp()) * exact(x, &up, depth, row, column);
                assert!((f64::from(got) - want).abs() < 1e-5);
            }
        }

        let bias = noise(inner, 3);
        let packed = pack(DType::F32, depth, &gate, Some(&bias));
        for rows in [1, 2, 5, 30] {
            let mut out = vec![f32::NAN; rows * inner];
            let x = &x[..rows * depth];
            let activated = Put::Activated(Activation::Silu);
            put(level, 2, x, rows, &packed, &mut out, inner, activated);
            for (at, &got) in out.iter().enumerate() {
                let (row, column) = (at / inner, at % inner);
                let sum = exact(x, &gate, depth, row, column) + f64::from(bias[column]);
                let want = sum / (1.0 + (-sum).exp());
                assert!((f64::from(got) - want).abs() < 1e-5);
            }
        }

        let packed = pack(DType::F32, depth, &gate, None);
        let plain = product(level, 2, &x[..5 * depth], 5, &packed);
        let mut sum = vec![10.0; 5 * (inner + 3)];
        put(level, 2, &x, 5, &packed, &mut sum, inner + 3, Put::Add);
        for row in 0..5 {
            for column in 0..inner + 3 {
                let added = match column < inner {
                    true => plain[row * inner + column],
                    false => 0.0,
                };
                assert_eq!(sum[row * (inner + 3) + column], 10.0 + added);
            }
        }
    }
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let mut team = ThreadTeam::new(2).unwrap();
    let (depth, columns) = (70, 40);
    for (broken, dtype) in [
        (f32::NAN, DType::F32),
        (f32::NEG_INFINITY, DType::BF16),
        (f32::INFINITY, DType::Int8),
        (f32::NAN, DType::Int4),
        // Finite as it is stored, but not as bf16.
        (f32::MAX, DType::BF16),
    ] {
        let mut weight = noise(columns * depth, 1);
        weight[1234] = broken;
        weight[2000] = f32::INFINITY;
        let weight = bytes(&weight);
        let layer = Linear {
            weight: view(&weight, &[columns, depth]),
            bias: None,
        };
        let arrangement = Arrangement::Concatenated;
        match Packed::new(&mut team, dtype, depth, &[layer], arrangement, None) {
            Err(crate::LoadError::NonFinite { tensor, index, .. }) => {
                assert_eq!((tensor.as_str(), index), ("w", 1234), "{dtype}");
            }
            other => panic!("{dtype}: {other:?}"),
        }
    }
}
