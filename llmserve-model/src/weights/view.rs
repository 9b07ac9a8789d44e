//! A tensor as it lies in its file.

use half::{bf16, f16};
use std::fmt;

/// How a file stores numbers. Little-endian, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileDType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    BF16,
}

impl FileDType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            FileDType::F32 => 4,
            FileDType::F16 | FileDType::BF16 => 2,
        }
    }

    /// The elements from `from` on of a tensor's `bytes`, as many as `out` takes, as `f32`.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline(always)]
    pub(crate) fn read(self, bytes: &[u8], from: usize, out: &mut [f32]) {
        let size = self.size();
        let bytes = &bytes[from * size..(from + out.len()) * size];
        match self {
            FileDType::F32 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *x = f32::from_le_bytes(*b);
                }
            }
            FileDType::BF16 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *x = bf16::from_le_bytes(*b).to_f32();
                }
            }
            FileDType::F16 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *x = f16::from_le_bytes(*b).to_f32();
                }
            }
        }
    }

    /// By the name that safetensors headers use.
    pub(super) fn from_safetensors(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(FileDType::F32),
            "F16" => Some(FileDType::F16),
            "BF16" => Some(FileDType::BF16),
            _ => None,
        }
    }

    /// The name that safetensors headers use.
    pub(crate) const fn safetensors(self) -> &'static str {
        match self {
            FileDType::F32 => "F32",
            FileDType::F16 => "F16",
            FileDType::BF16 => "BF16",
        }
    }

    /// By the name that `config.json` uses (`dtype`, formerly `torch_dtype`).
    pub(crate) fn from_torch(name: &str) -> Option<Self> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" | "float" => Some(FileDType::F32),
            "float16" | "half" => Some(FileDType::F16),
            "bfloat16" => Some(FileDType::BF16),
            _ => None,
        }
    }
}

impl fmt::Display for FileDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileDType::F32 => "f32",
            FileDType::F16 => "f16",
            FileDType::BF16 => "bf16",
        })
    }
}

/// A tensor's bytes, borrowed from the mapped file.
#[derive(Clone, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Its name in the checkpoint.
    pub name: String,
    /// How the elements are stored.
    pub dtype: FileDType,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// `elements × dtype.size()` bytes, little-endian, **aligned to nothing**.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// All elements as `f32`, exactly (every format widens to `f32` without rounding).
    pub fn to_f32(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.elements()];
        self.read(0, &mut all);
        all
    }

    /// The elements from `from` on, as many as `out` takes, as `f32`.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline(always)]
    pub(crate) fn read(&self, from: usize, out: &mut [f32]) {
        self.dtype.read(self.bytes, from, out);
    }
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype, self.shape)
    }
}
