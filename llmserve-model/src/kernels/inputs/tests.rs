use super::*;
use crate::decoder::DType;
use crate::kernels::levels;
use crate::kernels::packed::{Arrangement, Linear};
use crate::weights::{FileDType, TensorView};

/// A matrix of `width` rows and one column, of ones, with `norm` in front.
fn weights(dtype: DType, width: usize, norm: &[f32]) -> Packed {
    let ones: Vec<u8> = (0..width).flat_map(|_| 1f32.to_le_bytes()).collect();
    let layer = Linear {
        weight: TensorView {
            name: "w".to_owned(),
            dtype: FileDType::F32,
            shape: vec![1, width],
            bytes: &ones,
        },
        bias: None,
    };
    let mut team = ThreadTeam::new(1).unwrap();
    let arrangement = Arrangement::Concatenated;
    Packed::new(
        &mut team,
        dtype,
        width,
        &[layer],
        arrangement,
        Some(norm.to_vec()),
    )
    .unwrap()
}

/// The numbers that a tile's words stand for, row by row.
fn numbers(rows: &Rows<'_>) -> Vec<Vec<f64>> {
    let mut all = Vec::new();
    for tile in 0..rows.tiling.tiles() {
        let tile = rows.tile(tile);
        for row in 0..tile.rows {
            let number = |k: usize| -> f64 {
                let word = |per: usize| {
                    let word = k / per;
                    tile.words[(word / PIECE * tile.rows + row) * PIECE + word % PIECE]
                };
                match rows.format {
                    Format::F32 => f64::from(f32::from_bits(word(1))),
                    Format::Bf16 => f64::from(f32::from_bits(word(2) >> (16 * (k % 2)) << 16)),
                    Format::Int8 | Format::Int4 => {
                        let byte = word(4).to_le_bytes()[k % 4].cast_signed();
                        let group = k / rows.format.group();
                        f64::from(byte) * f64::from(tile.scales[group * tile.rows + row])
                    }
                }
            };
            all.push((0..rows.depth).map(number).collect());
        }
    }
    all
}

#[test]
fn rows_are_normalised_converted_and_do_not_see_their_neighbours() {
    let mut team = ThreadTeam::new(2).unwrap();
    let norm = Some(RmsNorm { eps: 1e-5 });
    for (dtype, precision) in [
        (DType::F32, 1e-6),
        (DType::BF16, 1.0 / 256.0),
        (DType::Int8, 0.5 / 127.0),
        (DType::Int4, 0.5 / 127.0),
    ] {
        for level in levels() {
            for width in [2, 15, 16, 24, 64, 130, 300] {
                let rows = 14;
                let input: Vec<f32> = (0..rows * width)
                    .map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0)
                    .collect();
                let weight: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 / 64.0).collect();
                let packed = weights(dtype, width, &weight);
                let tiling = Tiling::new(rows, level.tile_rows(dtype.format()));
                let format = dtype.format();
                let source = Source { data: &input, norm };
                let mut inputs = Inputs::try_new(&[(rows, width)], format).unwrap();
                let filled = inputs
                    .fill(&mut team, level, &packed, tiling, source)
                    .unwrap();
                let got = numbers(&filled);
                for row in 0..rows {
                    let x = &input[row * width..(row + 1) * width];
                    let square: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                    let scale = 1.0 / (square / width as f64 + 1e-5).sqrt();
                    let want = |k: usize| f64::from(x[k]) * scale * f64::from(weight[k]);
                    for (k, &got) in got[row].iter().enumerate() {
                        let group = match format.group() {
                            0 => k..k + 1,
                            each => k / each * each..((k / each + 1) * each).min(width),
                        };
                        let peak = group.map(|k| want(k).abs()).fold(0.0, f64::max);
                        let off = (got - want(k)).abs();
                        assert!(off <= 1.001 * precision * peak + 1e-9, "{level:?} {dtype}");
                    }
                    let only = Source { data: x, norm };
                    let mut alone = Inputs::try_new(&[(1, width)], format).unwrap();
                    let alone = alone.fill(&mut team, level, &packed, Tiling::new(1, 1), only);
                    assert_eq!(numbers(&alone.unwrap())[0], got[row]);
                }
            }
        }
    }
}
