use super::*;
use crate::decoder::DType;
use crate::kernels::levels;
use crate::kernels::packed::{Arrangement, Linear};
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

fn interleave(rows: &[f32], width: usize, tiling: Tiling) -> Vec<f32> {
    let mut out = vec![0.0; rows.len()];
    for row in 0..tiling.rows() {
        let place = tiling.place(row, width);
        for k in 0..width {
            out[place.start + k * place.step] = rows[row * width + k];
        }
    }
    out
}

/// Rows 0, 1, … of `x` times the packed matrix.
fn product(level: Level, threads: usize, x: &[f32], rows: usize, packed: &Packed) -> Vec<f32> {
    let mut team = ThreadTeam::new(threads).unwrap();
    let tiling = Tiling::new(rows, level.tile_rows());
    let input = interleave(x, packed.depth, tiling);
    let mut out = vec![f32::NAN; rows * packed.columns];
    let output = Output::Store {
        out: &mut out,
        stride: packed.columns,
    };
    gemm(&mut team, level, &input, tiling, packed, output).unwrap();
    out
}

#[test]
fn matches_the_naive_product_and_ignores_the_neighbours() {
    let mut team = ThreadTeam::new(2).unwrap();
    for (depth, columns) in [(1, 1), (7, 31), (24, 33), (64, 130), (129, 300)] {
        let weight = noise(columns * depth, 3);
        let bias = noise(columns, 4);
        let (weight_bytes, bias_bytes) = (bytes(&weight), bytes(&bias));
        let x = noise(64 * depth, 5);
        for dtype in [DType::F32, DType::BF16] {
            let layer = Linear {
                weight: view(&weight_bytes, &[columns, depth]),
                bias: Some(view(&bias_bytes, &[columns])),
            };
            let packed =
                Packed::new(&mut team, dtype, depth, &[layer], Arrangement::Concatenated).unwrap();
            let stored = |x: f32| match dtype {
                DType::F32 => x,
                DType::BF16 => half::bf16::from_f32(x).to_f32(),
            };
            for level in levels() {
                let together = product(level, 2, &x, 64, &packed);
                for (at, &got) in together.iter().enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let exact: f64 = (0..depth)
                        .map(|k| {
                            f64::from(x[row * depth + k])
                                * f64::from(stored(weight[column * depth + k]))
                        })
                        .sum::<f64>()
                        + f64::from(bias[column]);
                    assert!(
                        (f64::from(got) - exact).abs() < 2e-5,
                        "{level:?} {dtype} {depth}x{columns} row {row} column {column}: {got} {exact}"
                    );
                }
                // Every number of rows up to a tile and a bit, and each row alone.
                for rows in 1..=15 {
                    let some = product(level, 1, &x[..rows * depth], rows, &packed);
                    assert!(
                        some.iter()
                            .zip(&together)
                            .all(|(a, b)| a.to_bits() == b.to_bits())
                    );
                }
                for row in (0..64).step_by(7) {
                    let one = product(level, 3, &x[row * depth..(row + 1) * depth], 1, &packed);
                    let same = &together[row * columns..(row + 1) * columns];
                    assert!(
                        one.iter()
                            .zip(same)
                            .all(|(a, b)| a.to_bits() == b.to_bits())
                    );
                }
            }
        }
    }
}

#[test]
fn fused_levels_agree_to_the_bit() {
    let fused: Vec<_> = levels()
        .into_iter()
        .filter(|level| level.kernels() != crate::Kernels::Portable)
        .collect();
    let (depth, columns) = (77, 65);
    let weight = bytes(&noise(columns * depth, 8));
    let x = noise(9 * depth, 9);
    let layer = Linear {
        weight: view(&weight, &[columns, depth]),
        bias: None,
    };
    let mut team = ThreadTeam::new(1).unwrap();
    let packed = Packed::new(
        &mut team,
        DType::F32,
        depth,
        &[layer],
        Arrangement::Concatenated,
    )
    .unwrap();
    let results: Vec<_> = fused
        .iter()
        .map(|&l| product(l, 1, &x, 9, &packed))
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn the_gated_unit_and_the_residual_are_what_they_say() {
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
        let packed =
            Packed::new(&mut team, DType::F32, depth, &layers, Arrangement::Paired).unwrap();
        for rows in [1, 2, 5, 30] {
            let tiling = Tiling::new(rows, level.tile_rows());
            let input = interleave(&x[..rows * depth], depth, tiling);
            let mut out = vec![f32::NAN; rows * inner];
            let output = Output::Gated {
                out: &mut out,
                activation: Activation::Silu,
            };
            gemm(&mut team, level, &input, tiling, &packed, output).unwrap();
            for row in 0..rows {
                let place = tiling.place(row, inner);
                for column in 0..inner {
                    let dot = |w: &[f32]| -> f64 {
                        (0..depth)
                            .map(|k| {
                                f64::from(x[row * depth + k]) * f64::from(w[column * depth + k])
                            })
                            .sum()
                    };
                    let gate = dot(&gate);
                    let exact = gate / (1.0 + (-gate).exp()) * dot(&up);
                    let got = f64::from(out[place.start + column * place.step]);
                    assert!((got - exact).abs() < 1e-5);
                }
            }
        }

        let layer = linear(&gate_bytes);
        let packed = Packed::new(
            &mut team,
            DType::F32,
            depth,
            &[layer],
            Arrangement::Concatenated,
        )
        .unwrap();
        let plain = product(level, 2, &x[..5 * depth], 5, &packed);
        let tiling = Tiling::new(5, level.tile_rows());
        let input = interleave(&x[..5 * depth], depth, tiling);
        let mut sum = vec![10.0; 5 * (inner + 3)];
        let output = Output::Add {
            out: &mut sum,
            stride: inner + 3,
        };
        gemm(&mut team, level, &input, tiling, &packed, output).unwrap();
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
        let error = Packed::new(&mut team, dtype, depth, &[layer], Arrangement::Concatenated);
        match error {
            Err(crate::LoadError::NonFinite { tensor, index, .. }) => {
                assert_eq!((tensor.as_str(), index), ("w", 1234));
            }
            other => panic!("{other:?}"),
        }
    }
}
