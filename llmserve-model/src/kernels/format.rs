//! How a product's numbers are stored.

/// A format of packed weights, and of the activations that they are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// Single precision, one number a word.
    F32,
    /// bf16, two a word.
    Bf16,
    /// Bytes, four a word, one scale for each column.
    Int8,
    /// Four bits, eight a word, one scale for each column and group of channels.
    Int4,
}

/// Channels that share a scale of the activations, for weights of 8 bits: sums of so many products
/// are turned into `f32` at a time.
const INT8_GROUP: usize = 128;
/// Channels that share the weights' scale, and that of the activations, for weights of 4 bits.
const INT4_GROUP: usize = 32;

/// Words of a row that lie together: rows of a tile follow each other at this distance, so that a
/// product finds them at fixed ones. As many as a group of bytes has.
pub(crate) const PIECE: usize = INT8_GROUP / 4;

impl Format {
    /// Channels whose activations share a scale; 0 if there are none.
    #[inline(always)]
    pub(crate) const fn group(self) -> usize {
        match self {
            Format::F32 | Format::Bf16 => 0,
            Format::Int8 => INT8_GROUP,
            Format::Int4 => INT4_GROUP,
        }
    }

    /// Groups of a row `depth` wide.
    #[inline(always)]
    pub(crate) const fn groups(self, depth: usize) -> usize {
        match self {
            Format::F32 | Format::Bf16 => 0,
            Format::Int8 | Format::Int4 => depth.div_ceil(self.group()),
        }
    }

    /// Words of activations in a row `depth` wide.
    #[inline(always)]
    pub(crate) const fn words(self, depth: usize) -> usize {
        match self {
            Format::F32 => depth,
            Format::Bf16 => depth.div_ceil(2),
            Format::Int8 => depth.div_ceil(4),
            Format::Int4 => 2 * depth.div_ceil(8),
        }
    }

    /// Words that a row of activations takes, whole pieces.
    #[inline(always)]
    pub(crate) const fn row_words(self, depth: usize) -> usize {
        self.words(depth).next_multiple_of(PIECE)
    }

    /// Rows of words that a panel has, scales not counted.
    #[inline(always)]
    pub(crate) const fn panel_words(self, depth: usize) -> usize {
        match self {
            Format::F32 | Format::Bf16 | Format::Int8 => self.words(depth),
            Format::Int4 => depth.div_ceil(8),
        }
    }

    /// What is stored for a weight of 0.
    #[inline(always)]
    pub(crate) const fn zero(self) -> i32 {
        match self {
            Format::F32 | Format::Bf16 => 0,
            Format::Int8 => 128,
            Format::Int4 => 8,
        }
    }
}
