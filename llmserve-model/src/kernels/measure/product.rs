//! Products with packed weights, and the conversion of rows for them.

use super::{KernelBench, Sample, allocated, best, check, failed, noise};
use crate::config::Activation;
use crate::decoder::DType;
use crate::error::LoadError;
use crate::kernels::Level;
use crate::kernels::buffer::{Buffer, bytes_of_mut};
use crate::kernels::gemm::{Output, Put, gemm};
use crate::kernels::inputs::{Inputs, RmsNorm, Source};
use crate::kernels::packed::{Arrangement, Linear, MatrixShape, PANEL, Packed, pack};
use crate::kernels::stored::Stored;
use crate::kernels::tiling::Tiling;
use crate::threads::ThreadTeam;
use crate::weights::{FileDType, TensorView};

/// A matrix that rows are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductShape {
    /// How the weights are stored.
    pub dtype: DType,
    /// Numbers of a row: the length of each sum.
    pub depth: usize,
    /// Numbers of a result's row.
    pub columns: usize,
    /// Whether there are two such matrices, the gate and the other half of a gated unit, whose
    /// results become one: `silu(gate) · up`.
    pub paired: bool,
}

impl KernelBench {
    /// Multiplies converted rows with weights: a sample for each number of rows in `rows`.
    ///
    /// Counted are the bytes of the packed weights, read once, and two operations for each weight
    /// and row. Rows and results are not, and stay in a cache where they fit.
    ///
    /// # Errors
    /// [`LoadError::InvalidOption`] for a size that is 0 or beyond 2²⁰, or that there is no memory
    /// for.
    pub fn product(
        &mut self,
        shape: ProductShape,
        rows: &[usize],
    ) -> Result<Vec<Sample>, LoadError> {
        let ProductShape {
            dtype,
            depth,
            columns,
            paired,
        } = shape;
        check(&[("depth", depth), ("columns", columns)])?;
        rows.iter().try_for_each(|&rows| check(&[("rows", rows)]))?;
        let first =
            allocated(panel(&mut self.team, self.level, dtype, depth, paired)?.repeated(columns))?;
        let bytes = first.bytes();
        let mut copies = vec![first];
        while copies.len() < self.copies(bytes) {
            copies.push(allocated(copies[0].repeated(columns))?);
        }
        let matrices = if paired { 2.0 } else { 1.0 };
        let put = if paired {
            Put::Gated(Activation::Silu)
        } else {
            Put::Store
        };
        let measure = |&rows: &usize| {
            let mut data = allocated(Buffer::try_zeroed(rows * depth))?;
            noise(&mut data);
            let mut inputs = allocated(Inputs::try_new(&[(rows, depth)], dtype.format()))?;
            let source = Source {
                data: &data,
                norm: None,
            };
            let tiling = Tiling::new(rows, self.level.tile_rows(dtype.format()));
            let (level, team) = (self.level, &mut self.team);
            let filled = inputs.fill(team, level, &copies[0], tiling, source);
            let filled = filled.map_err(failed)?;
            let mut out = allocated(Buffer::try_zeroed(rows * columns))?;
            let seconds = best(self.time, |call| {
                let output = Output {
                    out: &mut out,
                    stride: columns,
                    put,
                };
                gemm(team, level, filled, &copies[call % copies.len()], output)
            })?;
            Ok(Sample {
                seconds,
                bytes: bytes as f64,
                flops: 2.0 * matrices * (depth * columns) as f64 * rows as f64,
                numbers: dtype,
            })
        };
        rows.iter().map(measure).collect()
    }

    /// Normalises `rows` rows of `width` numbers (RMSNorm) and converts them for a product with
    /// weights of type `dtype`.
    ///
    /// Counted are the bytes of the rows, read once, and of what is written; and four `f32`
    /// operations a number: its square added, two factors. Scales and rounding are not. The rows
    /// stay in a cache if they fit, as in a step, whose kernel before has just written them; the
    /// share of memory's ceiling may exceed 1 then.
    ///
    /// # Errors
    /// As [`product`](Self::product).
    pub fn conversion(
        &mut self,
        dtype: DType,
        width: usize,
        rows: usize,
    ) -> Result<Sample, LoadError> {
        check(&[("width", width), ("rows", rows)])?;
        let format = dtype.format();
        let mut data = allocated(Buffer::try_zeroed(rows * width))?;
        noise(&mut data);
        let mut inputs = allocated(Inputs::try_new(&[(rows, width)], format))?;
        let weights = panel(&mut self.team, self.level, dtype, width, false)?;
        let tiling = Tiling::new(rows, self.level.tile_rows(format));
        let source = Source {
            data: &data,
            norm: Some(RmsNorm { eps: 1e-5 }),
        };
        let (level, team) = (self.level, &mut self.team);
        let seconds = best(self.time, |_| {
            let filled = inputs.fill(team, level, &weights, tiling, source);
            filled.map(|_| ())
        })?;
        let words = width + format.words(width) + 2 * format.groups(width);
        Ok(Sample {
            seconds,
            bytes: 4.0 * words as f64 * rows as f64,
            flops: 4.0 * width as f64 * rows as f64,
            numbers: DType::F32,
        })
    }
}

/// A panel of weights, with a norm in front; or two, of a pair.
pub(super) fn panel(
    team: &mut ThreadTeam,
    level: Level,
    dtype: DType,
    depth: usize,
    paired: bool,
) -> Result<Packed, LoadError> {
    let mut numbers = allocated(Buffer::<f32>::try_zeroed(PANEL * depth))?;
    noise(&mut numbers);
    // As a file has them.
    for x in numbers.iter_mut() {
        *x = f32::from_bits(x.to_bits().to_le());
    }
    let bytes: &[u8] = bytes_of_mut(&mut numbers);
    let layer = || Linear {
        weight: TensorView {
            name: "weight".to_owned(),
            dtype: FileDType::F32,
            shape: vec![PANEL, depth],
            bytes,
        },
        bias: None,
    };
    let norm = vec![1.0; depth];
    let (layers, arrangement) = match paired {
        true => (vec![layer(), layer()], Arrangement::Paired),
        false => (vec![layer()], Arrangement::Concatenated),
    };
    let outputs = vec![PANEL; layers.len()];
    let shape = MatrixShape::new(dtype.format(), depth, &outputs, arrangement, false, true);
    let total = allocated(shape.sections())?.total;
    let mut slab = allocated(Buffer::try_zeroed(total))?;
    pack(
        team,
        level,
        &shape,
        &layers,
        arrangement,
        Some(&norm),
        &mut slab,
    )?;
    allocated(Packed::at(&shape, &Stored::owned(slab), 0))
}
