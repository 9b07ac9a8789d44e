//! Weights as the matrix product reads them: panels of 32 output columns.
//!
//! ```text
//!  f32    panel: k=0    [c0 … c31]              k=1    [c0 … c31]  …
//!  bf16   panel: k=0,1  [c0(k0,k1) … c31(…)]    k=2,3  …            two numbers in a 32-bit word
//!  int8   panel: k=0…3  [c0(k0…k3) … c31(…)]    k=4…7  …            four, and a scale a column
//!  int4   panel: scales [c0,c16 … c15,c31], k=0…7 [c0(k0…k7) … ], … k=24…31; scales, …    eight
//! ```
//!
//! Packed once, from the mapped file, on all threads, with every number checked to be finite.
//!
//! Numbers of 8 and 4 bits are the weights divided by a scale and rounded, stored unsigned around
//! 128 and 8. Before that each input channel's weights are multiplied by a power of two that makes
//! the channels' largest weights alike (of an output's weights, as shares of its largest), and the
//! product's rows are divided by it in turn: a model in which some channels carry far larger
//! activations than others, and their weights are smaller for it, comes out as if it had none. (The
//! idea is SmoothQuant's: Xiao et al., 2023; the weights alone decide here.)

mod pack;

use super::buffer::{Buffer, Number};
use super::format::Format;
use crate::decoder::DType;
use crate::error::LoadError;
use crate::threads::ThreadTeam;
use crate::weights::TensorView;

pub(crate) use pack::{check_finite, finite_vector};

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Words of an int4 panel that hold the scales of a group: bf16, of column `c` in the low half of
/// word `c` and of column `c + 16` in its high half.
pub(crate) const INT4_SCALES: usize = PANEL / 2;
/// Words of an int4 panel for each group: the scales, and 32 channels of 32 columns.
pub(crate) const INT4_BLOCK: usize = INT4_SCALES + 4 * PANEL;

/// A matrix of `depth` × columns, ready to be multiplied with.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) format: Format,
    /// Length of the accumulation.
    pub(crate) depth: usize,
    /// Columns of the result; for an interleaved pair, of one of the two.
    pub(crate) columns: usize,
    /// How many panels there are.
    pub(crate) panels: usize,
    words: Buffer<u32>,
    /// One number a column of each panel: what the whole sum is multiplied with.
    pub(crate) scales: Option<Buffer<f32>>,
    /// One number a column of each panel, zeros beyond the matrix.
    pub(crate) bias: Option<Buffer<f32>>,
    /// What each channel of the input is multiplied with beforehand: the norm's weight, and for
    /// integer formats the inverse of what the channel's weights were multiplied with.
    pub(crate) factors: Option<Vec<f32>>,
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
    /// Packs `layers`, each `[outputs, depth]`, in the order given. `norm` is the weight of the
    /// normalisation in front of them, if there is one.
    pub(crate) fn new(
        team: &mut ThreadTeam,
        dtype: DType,
        depth: usize,
        layers: &[Linear<'_>],
        arrangement: Arrangement,
        norm: Option<Vec<f32>>,
    ) -> Result<Self, LoadError> {
        pack::pack(team, dtype.format(), depth, layers, arrangement, norm)
    }

    /// The words of a panel.
    #[inline(always)]
    pub(crate) fn panel(&self, panel: usize) -> &[u32] {
        let size = panel_len(self.format, self.depth);
        &self.words[panel * size..(panel + 1) * size]
    }

    /// The same panels over and over, as many as make a matrix of `columns` columns; nothing if
    /// there is no memory for them. They are what speed is measured with.
    pub(crate) fn repeated(&self, columns: usize) -> Option<Self> {
        let matrices = self.panels / self.columns.div_ceil(PANEL).max(1);
        let panels = columns.div_ceil(PANEL) * matrices;
        let words = panels.checked_mul(panel_len(self.format, self.depth))?;
        Some(Self {
            format: self.format,
            depth: self.depth,
            columns,
            panels,
            words: cycled(&self.words, words)?,
            scales: match &self.scales {
                Some(scales) => Some(cycled(scales, panels * PANEL)?),
                None => None,
            },
            bias: match &self.bias {
                Some(bias) => Some(cycled(bias, panels * PANEL)?),
                None => None,
            },
            factors: self.factors.clone(),
        })
    }

    /// Bytes that a product reads: words, scales, bias, factors.
    pub(crate) fn bytes(&self) -> usize {
        let numbers = |buffer: &Option<Buffer<f32>>| buffer.as_ref().map_or(0, |b| b.len());
        let factors = self.factors.as_ref().map_or(0, Vec::len);
        4 * (self.words.len() + numbers(&self.scales) + numbers(&self.bias) + factors)
    }
}

/// Words of a panel.
#[inline(always)]
fn panel_len(format: Format, depth: usize) -> usize {
    match format {
        Format::Int4 => format.groups(depth) * INT4_BLOCK,
        _ => format.words(depth) * PANEL,
    }
}

/// `len` numbers: those of `from`, over and over.
fn cycled<T: Number>(from: &[T], len: usize) -> Option<Buffer<T>> {
    let mut all = Buffer::try_zeroed(len)?;
    for part in all.chunks_mut(from.len().max(1)) {
        part.copy_from_slice(&from[..part.len()]);
    }
    Some(all)
}
