use super::panel::CHUNK;
use super::*;
use crate::decoder::DType;
use crate::error::LoadError;
use crate::kernels::buffer::Buffer;
use crate::kernels::{Level, levels};
use crate::threads::ThreadTeam;
use crate::weights::FileDType;

impl Packed {
    /// Packs layers into a slab of their own, with the best instructions there are.
    pub(crate) fn new(
        team: &mut ThreadTeam,
        dtype: DType,
        depth: usize,
        layers: &[Linear<'_>],
        arrangement: Arrangement,
        norm: Option<Vec<f32>>,
    ) -> Result<Self, LoadError> {
        let level = levels().pop().unwrap();
        let norm = norm.as_deref();
        let (shape, slab) = packed(team, level, dtype, depth, layers, arrangement, norm)?;
        Ok(Self::at(&shape, &slab, 0).unwrap())
    }
}

fn packed(
    team: &mut ThreadTeam,
    level: Level,
    dtype: DType,
    depth: usize,
    layers: &[Linear<'_>],
    arrangement: Arrangement,
    norm: Option<&[f32]>,
) -> Result<(MatrixShape, Stored<u32>), LoadError> {
    let outputs: Vec<_> = layers.iter().map(Linear::outputs).collect();
    let bias = layers.iter().any(|layer| layer.bias.is_some());
    let format = dtype.format();
    let shape = MatrixShape::new(format, depth, &outputs, arrangement, bias, norm.is_some());
    let mut slab = Buffer::try_zeroed(shape.sections().unwrap().total).unwrap();
    pack(team, level, &shape, layers, arrangement, norm, &mut slab)?;
    Ok((shape, Stored::owned(slab)))
}

/// Numbers of many magnitudes, some of them 0.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|i| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let x = state as f32 / u32::MAX as f32 - 0.5;
            match state % 11 {
                0 => 0.0,
                1 => x * 1e-30,
                2 => x * 30.0,
                _ => x * (1.0 + (i % 7) as f32),
            }
        })
        .collect()
}

fn bytes(values: &[f32], dtype: FileDType) -> Vec<u8> {
    let each = |x: &f32| match dtype {
        FileDType::BF16 => half::bf16::from_f32(*x).to_le_bytes().to_vec(),
        FileDType::F16 => half::f16::from_f32(*x).to_le_bytes().to_vec(),
        FileDType::F32 => x.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(each).collect()
}

fn view<'a>(bytes: &'a [u8], dtype: FileDType, shape: &[usize]) -> TensorView<'a> {
    TensorView {
        name: "w".to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

#[test]
fn every_level_and_number_of_threads_packs_the_same_words() {
    let arrangements = [Arrangement::Concatenated, Arrangement::Paired];
    for (depth, columns) in [(1, 1), (31, 33), (128, 64), (CHUNK + 40, 70), (577, 40)] {
        let norm: Vec<f32> = (0..depth).map(|i| 0.5 + (i % 5) as f32).collect();
        for file in [FileDType::F32, FileDType::BF16, FileDType::F16] {
            let tensors = [1, 2].map(|seed| bytes(&noise(columns * depth, seed), file));
            let bias = bytes(&noise(columns, 3), file);
            let layers = tensors.each_ref().map(|tensor| Linear {
                weight: view(tensor, file, &[columns, depth]),
                bias: Some(view(&bias, file, &[columns])),
            });
            for dtype in DType::ALL {
                for arrangement in arrangements {
                    let mut first: Option<Stored<u32>> = None;
                    for (at, level) in levels().into_iter().enumerate() {
                        let mut team = ThreadTeam::new(1 + at % 3).unwrap();
                        let norm = Some(&norm[..]);
                        let made =
                            packed(&mut team, level, dtype, depth, &layers, arrangement, norm);
                        let (_, slab) = made.unwrap();
                        let first = first.get_or_insert(slab.part(0..slab.len()).unwrap());
                        assert!(first[..] == slab[..], "{dtype} {level:?} {depth}");
                    }
                }
            }
        }
    }
}

/// What the numbers of a column should become, straight from the definition.
fn naive_int4(numbers: &[f32]) -> (f32, Vec<u8>) {
    let mut padded = [0f32; 32];
    padded[..numbers.len()].copy_from_slice(numbers);
    let mut peak = 0f32;
    for x in padded {
        if x.abs() > peak.abs() {
            peak = x;
        }
    }
    let (mut least, mut best) = (f32::INFINITY, 0.0);
    let store = |x: f32, scale: f32| (x * (1.0 / scale)).clamp(-8.0, 7.0).round_ties_even();
    for step in 0..17 {
        let scale = half::bf16::from_f32(peak / -(7.0 + 1.6 * step as f32 / 16.0)).to_f32();
        let inverse = 1.0 / scale;
        if !inverse.is_finite() {
            continue;
        }
        let square = |x: f32| (store(x, scale) - x * inverse).powi(2);
        let error = (0..16).fold(0f32, |sum, i| {
            sum + (square(padded[i]) + square(padded[i + 16]))
        });
        let step = scale / peak;
        let error = error * step * step;
        if error < least {
            (least, best) = (error, scale);
        }
    }
    let number = |x: &f32| match best {
        0.0 => 8,
        scale => (store(*x, scale) + 8.0) as u8,
    };
    (best, padded.iter().map(number).collect())
}

#[test]
fn words_are_what_the_definition_says() {
    let (depth, columns) = (161, 45);
    let numbers = noise(columns * depth, 9);
    let tensor = bytes(&numbers, FileDType::F32);
    let layers = [Linear {
        weight: view(&tensor, FileDType::F32, &[columns, depth]),
        bias: None,
    }];
    for dtype in DType::ALL {
        let mut team = ThreadTeam::new(2).unwrap();
        let arrangement = Arrangement::Concatenated;
        let packed = Packed::new(&mut team, dtype, depth, &layers, arrangement, None).unwrap();
        for column in 0..columns {
            let panel = packed.panel(column / PANEL);
            let lane = column % PANEL;
            // The inverse of the factors is what channels were stretched by.
            let stretched: Vec<f32> = (0..depth)
                .map(|k| match &packed.factors {
                    Some(factors) => numbers[column * depth + k] / factors[k],
                    None => numbers[column * depth + k],
                })
                .collect();
            let peak = stretched.iter().fold(0f32, |peak, x| peak.max(x.abs()));
            for (group, part) in stretched.chunks(32).enumerate() {
                let int4 = naive_int4(part);
                for (i, &x) in part.iter().enumerate() {
                    let k = group * 32 + i;
                    match dtype {
                        DType::F32 => assert_eq!(panel[k * PANEL + lane], x.to_bits()),
                        DType::BF16 => {
                            let word = panel[k / 2 * PANEL + lane];
                            let half = (word >> (16 * (k % 2))) as u16;
                            assert_eq!(half, half::bf16::from_f32(x).to_bits());
                        }
                        DType::Int8 => {
                            let byte = panel[k / 4 * PANEL + lane].to_le_bytes()[k % 4];
                            let want = (x * (127.0 / peak)).round_ties_even() + 128.0;
                            assert_eq!(f32::from(byte), want);
                            let scales = packed.scales.as_ref().unwrap();
                            assert_eq!(scales[column], peak / 127.0);
                        }
                        DType::Int4 => {
                            let block = &panel[group * INT4_BLOCK..(group + 1) * INT4_BLOCK];
                            let scale = (block[lane % 16] >> (16 * (lane / 16))) << 16;
                            assert_eq!(f32::from_bits(scale), int4.0);
                            let word = block[INT4_SCALES + i / 8 * PANEL + lane];
                            let byte = word.to_le_bytes()[i % 4];
                            let nibble = (byte >> (4 * (i % 8 / 4))) & 15;
                            assert_eq!(nibble, int4.1[i], "{column} {k}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn weights_of_any_magnitude_are_packed() {
    for most in [f32::MAX, 1e20, 1e-20, 1e-35] {
        weights_up_to(most);
    }
}

fn weights_up_to(most: f32) {
    let (depth, columns) = (70, 33);
    // Channels of many magnitudes, whose weights are stretched to the largest of all.
    let numbers: Vec<f32> = (0..columns * depth)
        .map(|i| match i % depth {
            0 => most,
            k => -most / (1 + (k * 37) % 61) as f32,
        })
        .collect();
    let tensor = bytes(&numbers, FileDType::F32);
    let layers = [Linear {
        weight: view(&tensor, FileDType::F32, &[columns, depth]),
        bias: None,
    }];
    for dtype in [DType::Int8, DType::Int4] {
        let mut team = ThreadTeam::new(2).unwrap();
        let arrangement = Arrangement::Concatenated;
        let packed = Packed::new(&mut team, dtype, depth, &layers, arrangement, None).unwrap();
        for column in 0..columns {
            let (panel, lane) = (packed.panel(column / PANEL), column % PANEL);
            match &packed.scales {
                Some(scales) => assert_eq!(scales[column], most / 127.0),
                None => {
                    let scale = f32::from_bits((panel[lane % 16] >> (16 * (lane / 16))) << 16);
                    assert!(scale.abs() > most / 10.0 && scale.abs() < most, "{scale}");
                }
            }
        }
    }
}

#[test]
fn shapes_that_cannot_be_counted_have_no_sections() {
    let shape = |depth, columns| {
        let outputs = [columns];
        MatrixShape::new(
            Format::F32,
            depth,
            &outputs,
            Arrangement::Concatenated,
            true,
            true,
        )
    };
    assert!(shape(usize::MAX, 32).sections().is_none());
    assert!(shape(1 << 40, usize::MAX).sections().is_none());
    let sections = shape(33, 40).sections().unwrap();
    assert_eq!(sections.words.len, 2 * 33 * PANEL);
    let factors = sections.factors.unwrap();
    assert_eq!((factors.len, factors.padded), (33, 48));
    assert_eq!(sections.total, factors.begin + factors.padded);
    let slab = Stored::owned(Buffer::try_zeroed(sections.total).unwrap());
    assert!(Packed::at(&shape(33, 40), &slab, 0).is_some());
    assert!(Packed::at(&shape(33, 40), &slab, 16).is_none());
    assert!(Packed::at(&shape(33, 40), &slab, usize::MAX).is_none());
}
