//! Weights as the matrix product reads them: panels of 32 output columns.
//!
//! ```text
//!  f32    panel: k=0 [c0 … c31]  k=1 [c0 … c31]  …
//!  bf16   panel: k=0,1 [c0(k0,k1) … c31(k0,k1)]  k=2,3 …    two numbers in a 32-bit word
//! ```
//!
//! Packed once, from the mapped file, on all threads, with every number checked to be finite. The
//! pairing of bf16 numbers costs one shift and one mask for 32 of them, and is the order in which
//! dot-product instructions want them.

use parking_lot::Mutex;

use super::buffer::{Buffer, Number};
use super::simd::{LANES, Simd, pair, rounded_bits};
use crate::decoder::DType;
use crate::error::LoadError;
use crate::threads::{Disjoint, ThreadTeam};
use crate::weights::TensorView;

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;

/// Numbers converted at a time while packing.
const CHUNK: usize = 128;

/// A word of a panel: as many numbers of consecutive `k` as fit.
pub(crate) trait Weight: Number {
    /// How many.
    const DEPTH: usize;
    /// The numbers of the even (or only) `k` of 16 columns.
    fn lower<S: Simd>(s: S, words: &[Self; LANES]) -> S::V;
    /// The numbers of the odd `k`.
    fn upper<S: Simd>(s: S, words: &[Self; LANES]) -> S::V;
    /// The word of the finite numbers of an even `k` (`odd` is 0 then) and of its successor.
    fn pack(even: f32, odd: f32) -> Self;
    /// `x` rounded as [`pack`](Self::pack) does.
    fn rounded(x: f32) -> f32;
}

impl Weight for f32 {
    const DEPTH: usize = 1;

    #[inline(always)]
    fn lower<S: Simd>(s: S, words: &[Self; LANES]) -> S::V {
        s.load(words)
    }

    #[inline(always)]
    fn upper<S: Simd>(s: S, words: &[Self; LANES]) -> S::V {
        s.load(words)
    }

    #[inline(always)]
    fn pack(even: f32, _odd: f32) -> Self {
        even
    }

    #[inline(always)]
    fn rounded(x: f32) -> f32 {
        x
    }
}

/// Two bf16 numbers, the earlier one in the low half.
impl Weight for u32 {
    const DEPTH: usize = 2;

    #[inline(always)]
    fn lower<S: Simd>(s: S, words: &[Self; LANES]) -> S::V {
        s.low(s.words(words))
    }

    #[inline(always)]
    fn upper<S: Simd>(s: S, words: &[Self; LANES]) -> S::V {
        s.high(s.words(words))
    }

    #[inline(always)]
    fn pack(even: f32, odd: f32) -> Self {
        pair(even, odd)
    }

    #[inline(always)]
    fn rounded(x: f32) -> f32 {
        f32::from_bits(rounded_bits(x) & 0xffff_0000)
    }
}

/// The panels, by how their numbers are stored.
#[derive(Debug)]
pub(crate) enum Panels {
    F32(Buffer<f32>),
    Bf16(Buffer<u32>),
}

/// A matrix of `depth` × columns, ready to be multiplied with.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Length of the accumulation.
    pub(crate) depth: usize,
    /// Columns of the result; for an interleaved pair, of one of the two.
    pub(crate) columns: usize,
    /// How many panels there are.
    pub(crate) panels: usize,
    pub(crate) data: Panels,
    /// One number a column of each panel, zeros beyond the matrix.
    pub(crate) bias: Option<Buffer<f32>>,
}

/// A linear layer of the checkpoint: rows are outputs.
pub(crate) struct Linear<'a> {
    pub(crate) weight: TensorView<'a>,
    pub(crate) bias: Option<TensorView<'a>>,
}

impl Linear<'_> {
    fn outputs(&self) -> usize {
        self.weight.shape.first().copied().unwrap_or(0)
    }
}

/// How several layers with the same input become one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// One after the other.
    Concatenated,
    /// Two, panel by panel in turn, so that one task has both halves of a gated unit.
    Paired,
}

impl Packed {
    /// Packs `layers`, each `[outputs, depth]`, in the order given.
    pub(crate) fn new(
        team: &mut ThreadTeam,
        dtype: DType,
        depth: usize,
        layers: &[Linear<'_>],
        arrangement: Arrangement,
    ) -> Result<Self, LoadError> {
        let paired = arrangement == Arrangement::Paired;
        let columns = if paired {
            layers.first().map_or(0, Linear::outputs)
        } else {
            layers.iter().map(Linear::outputs).sum()
        };
        let each = columns.div_ceil(PANEL);
        let panels = if paired { 2 * each } else { each };
        // Where column `lane` of a panel comes from: a layer and its row.
        let source = |panel: usize, lane: usize| -> Option<(usize, usize)> {
            if paired {
                let row = panel / 2 * PANEL + lane;
                return (row < columns).then_some((panel % 2, row));
            }
            let mut row = panel * PANEL + lane;
            for (index, layer) in layers.iter().enumerate() {
                if row < layer.outputs() {
                    return Some((index, row));
                }
                row -= layer.outputs();
            }
            None
        };

        let bias = if layers.iter().any(|layer| layer.bias.is_some()) {
            let mut bias = allocate::<f32>(panels * PANEL)?;
            let values: Vec<_> = layers
                .iter()
                .map(|layer| layer.bias.as_ref().map(finite_vector).transpose())
                .collect::<Result<_, _>>()?;
            for (at, slot) in bias.iter_mut().enumerate() {
                if let Some((layer, row)) = source(at / PANEL, at % PANEL)
                    && let Some(values) = &values[layer]
                {
                    *slot = values[row];
                }
            }
            Some(bias)
        } else {
            None
        };
        let data = match dtype {
            DType::F32 => Panels::F32(pack(team, depth, panels, layers, &source)?),
            DType::BF16 => Panels::Bf16(pack(team, depth, panels, layers, &source)?),
        };
        Ok(Self {
            depth,
            columns,
            panels,
            data,
            bias,
        })
    }
}

fn allocate<T: Number>(len: usize) -> Result<Buffer<T>, LoadError> {
    Buffer::try_zeroed(len).ok_or_else(|| LoadError::InvalidOption {
        option: "dtype",
        reason: format!(
            "no memory for {len} packed weights of {} bytes: a smaller type needs less",
            size_of::<T>()
        ),
    })
}

fn pack<W: Weight>(
    team: &mut ThreadTeam,
    depth: usize,
    panels: usize,
    layers: &[Linear<'_>],
    source: &(impl Fn(usize, usize) -> Option<(usize, usize)> + Sync),
) -> Result<Buffer<W>, LoadError> {
    let size = depth.div_ceil(W::DEPTH) * PANEL;
    let mut data = allocate::<W>(panels * size)?;
    let shared = Disjoint::new(&mut data);
    // The lowest layer with a number that is not finite.
    let broken = Mutex::new(None::<usize>);
    team.run(panels, |panel, _| {
        // SAFETY: each task has its own panel.
        let words = unsafe { shared.part(panel * size..(panel + 1) * size) };
        let rows: [_; PANEL] = std::array::from_fn(|lane| source(panel, lane));
        // Rows are read lengthways and written crossways, a piece that fits the first-level cache.
        let mut piece = [[0.0f32; CHUNK]; PANEL];
        for begin in (0..depth).step_by(CHUNK) {
            let len = CHUNK.min(depth - begin);
            for (row, piece) in rows.iter().zip(&mut piece) {
                let Some((layer, row)) = *row else {
                    continue;
                };
                let weight = &layers[layer].weight;
                weight.read(row * depth + begin, &mut piece[..len]);
                piece[len..].fill(0.0);
                if !piece
                    .iter()
                    .fold(true, |all, &x| all & W::rounded(x).is_finite())
                {
                    let mut broken = broken.lock();
                    *broken = Some(broken.map_or(layer, |known| known.min(layer)));
                }
            }
            let first = begin / W::DEPTH * PANEL;
            let words = &mut words[first..first + len.div_ceil(W::DEPTH) * PANEL];
            for (word, words) in words.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                let k = word * W::DEPTH;
                for (word, piece) in words.iter_mut().zip(&piece) {
                    *word = W::pack(piece[k], piece[(k + 1) % CHUNK]);
                }
            }
        }
    })
    .map_err(|panic| LoadError::Threads {
        reason: panic.to_string(),
    })?;
    match broken.into_inner() {
        Some(layer) => Err(non_finite(&layers[layer].weight, W::rounded)),
        None => Ok(data),
    }
}

/// Where a tensor holds its first number that is not finite.
fn non_finite(view: &TensorView<'_>, rounded: fn(f32) -> f32) -> LoadError {
    let mut chunk = [0.0; CHUNK];
    let elements = view.elements();
    for begin in (0..elements).step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(elements - begin)];
        view.read(begin, chunk);
        if let Some(at) = chunk.iter().position(|&x| !rounded(x).is_finite()) {
            return LoadError::NonFinite {
                tensor: view.name.clone(),
                index: begin + at,
                value: rounded(chunk[at]),
            };
        }
    }
    // Not reached: the caller has seen one.
    LoadError::NonFinite {
        tensor: view.name.clone(),
        index: 0,
        value: f32::NAN,
    }
}

/// A tensor's numbers, widened and checked.
pub(crate) fn finite_vector(view: &TensorView<'_>) -> Result<Vec<f32>, LoadError> {
    let values = view.to_f32();
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(values),
        false => Err(non_finite(view, |x| x)),
    }
}

/// Checks a tensor that stays in its file.
pub(crate) fn check_finite(team: &mut ThreadTeam, view: &TensorView<'_>) -> Result<(), LoadError> {
    const PART: usize = 1 << 16;
    let elements = view.elements();
    let finite = std::sync::atomic::AtomicBool::new(true);
    team.run(elements.div_ceil(PART), |part, _| {
        let mut chunk = [0.0; CHUNK];
        let end = elements.min((part + 1) * PART);
        for begin in (part * PART..end).step_by(CHUNK) {
            let chunk = &mut chunk[..CHUNK.min(end - begin)];
            view.read(begin, chunk);
            if !chunk.iter().fold(true, |all, x| all & x.is_finite()) {
                finite.store(false, std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .map_err(|panic| LoadError::Threads {
        reason: panic.to_string(),
    })?;
    match finite.into_inner() {
        true => Ok(()),
        false => Err(non_finite(view, |x| x)),
    }
}
