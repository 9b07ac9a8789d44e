//! Weights as the matrix product reads them: panels of 32 output columns.
//!
//! ```text
//!  f32    panel: k=0    [c0 … c31]              k=1    [c0 … c31]  …
//!  bf16   panel: k=0,1  [c0(k0,k1) … c31(…)]    k=2,3  …            two numbers in a 32-bit word
//!  int8   panel: k=0…3  [c0(k0…k3) … c31(…)]    k=4…7  …            four, and a scale a column
//!  int4   panel: scales [c0,c16 … c15,c31], k=0…7 [c0(k0…k7) … ], … k=24…31; scales, …    eight
//! ```
//!
//! Packed once, from the mapped file, on all threads, with every number checked to be finite. All
//! matrices of a model lie in one slab, which is also the body of a packed file.
//!
//! Numbers of 8 and 4 bits are the weights divided by a scale and rounded, stored unsigned around
//! 128 and 8. Before that each input channel's weights are multiplied by a power of two that makes
//! the channels' largest weights alike (of an output's weights, as shares of its largest), and the
//! product's rows are divided by it in turn: a model in which some channels carry far larger
//! activations than others, and their weights are smaller for it, comes out as if it had none. (The
//! idea is SmoothQuant's: Xiao et al., 2023; the weights alone decide here.)

mod pack;
mod panel;
mod shape;
#[cfg(test)]
mod tests;

use super::buffer::Buffer;
use super::format::Format;
use super::stored::Stored;
use crate::weights::TensorView;

pub(crate) use pack::{check_finite, finite_vector, pack};
pub(crate) use shape::{MatrixShape, Section};

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
    words: Stored<u32>,
    /// One number a column of each panel: what the whole sum is multiplied with.
    pub(crate) scales: Option<Stored<f32>>,
    /// One number a column of each panel, zeros beyond the matrix.
    pub(crate) bias: Option<Stored<f32>>,
    /// What each channel of the input is multiplied with beforehand: the norm's weight, and for
    /// integer formats the inverse of what the channel's weights were multiplied with.
    pub(crate) factors: Option<Stored<f32>>,
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
    /// The matrix of `shape` whose numbers begin at word `base` of `slab`; none if the slab does
    /// not hold it.
    pub(crate) fn at(shape: &MatrixShape, slab: &Stored<u32>, base: usize) -> Option<Self> {
        let sections = shape.sections()?;
        let range = |section: &Section| {
            let begin = base.checked_add(section.begin)?;
            Some(begin..begin.checked_add(section.len)?)
        };
        let optional = |section: &Option<Section>| match section {
            Some(section) => slab.part(range(section)?).map(Some),
            None => Some(None),
        };
        Some(Self {
            format: shape.format,
            depth: shape.depth,
            columns: shape.columns,
            panels: shape.panels,
            words: slab.part(range(&sections.words)?)?,
            scales: optional(&sections.scales)?,
            bias: optional(&sections.bias)?,
            factors: optional(&sections.factors)?,
        })
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
        let shape = MatrixShape {
            format: self.format,
            depth: self.depth,
            columns,
            panels: columns.div_ceil(PANEL).checked_mul(matrices)?,
            bias: self.bias.is_some(),
            factors: self.factors.is_some(),
        };
        let sections = shape.sections()?;
        let mut slab = Buffer::try_zeroed(sections.total)?;
        cycle(&self.words, &sections.words, &mut slab);
        for (part, section) in [
            (&self.scales, &sections.scales),
            (&self.bias, &sections.bias),
            (&self.factors, &sections.factors),
        ] {
            if let (Some(part), Some(section)) = (part, section) {
                let bits: Vec<u32> = part.iter().map(|x| x.to_bits()).collect();
                cycle(&bits, section, &mut slab);
            }
        }
        Self::at(&shape, &Stored::owned(slab), 0)
    }

    /// Bytes that a product reads: words, scales, bias, factors.
    pub(crate) fn bytes(&self) -> usize {
        let numbers = |part: &Option<Stored<f32>>| part.as_deref().map_or(0, <[f32]>::len);
        4 * (self.words.len()
            + numbers(&self.scales)
            + numbers(&self.bias)
            + numbers(&self.factors))
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

/// Fills a section with the words of `from`, over and over.
fn cycle(from: &[u32], section: &Section, slab: &mut [u32]) {
    let to = &mut slab[section.begin..section.begin + section.len];
    for to in to.chunks_mut(from.len().max(1)) {
        to.copy_from_slice(&from[..to.len()]);
    }
}
