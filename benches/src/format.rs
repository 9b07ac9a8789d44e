//! How numbers are stored: bytes of packed weights, and the rate of the units that multiply them.

use clap::ValueEnum;
use llmserve::model::{Ceiling, DType};

/// Columns of a panel: weights are padded to whole panels.
const PANEL: usize = 32;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// IEEE 754 single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Eight bits.
    Int8,
    /// Four bits.
    Int4,
}

impl Format {
    /// What the model calls it.
    pub fn dtype(self) -> DType {
        match self {
            Format::F32 => DType::F32,
            Format::Bf16 => DType::BF16,
            Format::Int8 => DType::Int8,
            Format::Int4 => DType::Int4,
        }
    }

    /// The layout of a packed matrix.
    pub fn packing(self) -> Packing {
        match self {
            Format::F32 => Packing::F32,
            Format::Bf16 => Packing::BF16,
            Format::Int8 => Packing::INT8,
            Format::Int4 => Packing::INT4,
        }
    }

    /// Operations a second at most.
    pub fn peak(self, ceiling: &Ceiling) -> f64 {
        1e9 * match self {
            Format::F32 => ceiling.f32_gflop_s,
            Format::Bf16 => ceiling.bf16_gflop_s,
            Format::Int8 | Format::Int4 => ceiling.int8_gflop_s,
        }
    }

    /// The format of a cache with so many bytes a number.
    pub fn of_cache(bytes: usize) -> Option<Self> {
        [Self::F32, Self::Bf16]
            .into_iter()
            .find(|format| 8 * bytes == format.dtype().bits() as usize)
    }
}

/// The bytes of a packed matrix `[rows, columns]`, where rows are accumulated over: panels of 32
/// columns, each a list of 32-bit words with numbers of consecutive rows, and its scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bits of a number. A word holds numbers of `32 / bits` rows, and rows are padded to words.
    bits: usize,
    /// Bytes of the scale of a column; 0 for none.
    column_scale: usize,
    /// Bytes of the scale of a column and group of rows; 0 for none.
    group_scale: usize,
    /// Rows of a group; rows are padded to groups.
    group: usize,
}

impl Packing {
    /// Four bytes.
    pub const F32: Self = Self::plain(32);
    /// Two bytes, two rows a word.
    pub const BF16: Self = Self::plain(16);
    /// One byte, four rows a word, and one f32 for each column.
    pub const INT8: Self = Self {
        column_scale: 4,
        ..Self::plain(8)
    };
    /// Four bits, eight rows a word, and one bf16 for each column and 32 rows.
    pub const INT4: Self = Self {
        group_scale: 2,
        group: 32,
        ..Self::plain(4)
    };

    const fn plain(bits: usize) -> Self {
        Self {
            bits,
            column_scale: 0,
            group_scale: 0,
            group: 32 / bits,
        }
    }

    /// Bytes of a matrix, padding and scales included: what multiplying with it reads.
    pub fn packed_bytes(&self, rows: usize, columns: usize) -> usize {
        let groups = rows.div_ceil(self.group);
        let numbers = groups * self.group * self.bits / 8;
        let scales = self.column_scale + groups * self.group_scale;
        columns.next_multiple_of(PANEL) * (numbers + scales)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_without_padding_has_the_bytes_of_its_numbers_and_scales() {
        let (rows, columns) = (576, 1536);
        let numbers = rows * columns;
        assert_eq!(Packing::F32.packed_bytes(rows, columns), 4 * numbers);
        assert_eq!(Packing::BF16.packed_bytes(rows, columns), 2 * numbers);
        assert_eq!(
            Packing::INT8.packed_bytes(rows, columns),
            numbers + 4 * columns
        );
        // Four bits and a 32nd of 16: 4.5 bits a number.
        assert_eq!(Packing::INT4.packed_bytes(rows, columns), numbers * 9 / 16);
    }

    #[test]
    fn columns_are_padded_to_panels_and_rows_to_words_or_groups() {
        // 33 columns are two panels of 32.
        assert_eq!(Packing::F32.packed_bytes(3, 33), 64 * 3 * 4);
        assert_eq!(Packing::BF16.packed_bytes(3, 33), 64 * 4 * 2);
        assert_eq!(Packing::INT8.packed_bytes(5, 33), 64 * (8 + 4));
        assert_eq!(Packing::INT4.packed_bytes(33, 1), 32 * (32 + 2 * 2));
    }
}
