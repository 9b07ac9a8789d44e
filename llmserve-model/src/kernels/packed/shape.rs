//! What a packed matrix is made of, and where in its slab each part lies.

use super::{Arrangement, INT4_BLOCK, PANEL};
use crate::kernels::format::Format;
use crate::kernels::stored::PART_ALIGN;

/// Words at whose multiples a part begins.
const ALIGN: usize = PART_ALIGN / size_of::<u32>();

/// A packed matrix without its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixShape {
    pub(crate) format: Format,
    /// Length of the accumulation.
    pub(crate) depth: usize,
    /// Columns of the result; for an interleaved pair, of one of the two.
    pub(crate) columns: usize,
    pub(crate) panels: usize,
    /// Whether any layer has a bias.
    pub(crate) bias: bool,
    /// Whether channels of the input are multiplied with numbers of their own.
    pub(crate) factors: bool,
}

/// Where a part lies, in words from the matrix's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) begin: usize,
    /// Words that mean something.
    pub(crate) len: usize,
    /// Words until the next part.
    pub(crate) padded: usize,
}

/// The parts of a matrix, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sections {
    pub(crate) words: Section,
    pub(crate) scales: Option<Section>,
    pub(crate) bias: Option<Section>,
    pub(crate) factors: Option<Section>,
    /// Words of all together: a multiple of a cache line.
    pub(crate) total: usize,
}

impl MatrixShape {
    /// The shape of layers with these `outputs`, side by side. `norm`: whether a norm with weights
    /// is in front of them.
    pub(crate) fn new(
        format: Format,
        depth: usize,
        outputs: &[usize],
        arrangement: Arrangement,
        bias: bool,
        norm: bool,
    ) -> Self {
        let paired = arrangement == Arrangement::Paired;
        let columns = match paired {
            true => outputs.first().copied().unwrap_or(0),
            false => outputs.iter().sum(),
        };
        let each = columns.div_ceil(PANEL);
        Self {
            format,
            depth,
            columns,
            panels: if paired { 2 * each } else { each },
            bias,
            factors: norm || format.group() > 0,
        }
    }

    /// Where the parts lie; none if there are more words than can be counted.
    pub(crate) fn sections(&self) -> Option<Sections> {
        let mut total = 0usize;
        let mut next = |len: usize| {
            let padded = len.checked_next_multiple_of(ALIGN)?;
            let section = Section {
                begin: total,
                len,
                padded,
            };
            total = total.checked_add(padded)?;
            Some(section)
        };
        let panel = match self.format {
            Format::Int4 => self.format.groups(self.depth).checked_mul(INT4_BLOCK)?,
            _ => self.format.words(self.depth).checked_mul(PANEL)?,
        };
        let words = next(self.panels.checked_mul(panel)?)?;
        let columns = self.panels.checked_mul(PANEL)?;
        let scales = match self.format {
            Format::Int8 => Some(next(columns)?),
            _ => None,
        };
        let bias = match self.bias {
            true => Some(next(columns)?),
            false => None,
        };
        let factors = match self.factors {
            true => Some(next(self.depth)?),
            false => None,
        };
        Some(Sections {
            words,
            scales,
            bias,
            factors,
            total,
        })
    }
}
