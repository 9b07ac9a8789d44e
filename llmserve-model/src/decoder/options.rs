//! How a model is to be computed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::LoadError;
use crate::kernels::Kernels;
use crate::kernels::format::Format;

/// How weights are stored and multiplied; sums of any length are always `f32`.
///
/// KV pages are `f32` for `f32` weights, bf16 for all others, and so is the embedding's lookup: its
/// rows are read from the checkpoint as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision: four bytes, and the checkpoint's numbers unchanged.
    #[default]
    F32,
    /// bfloat16, weights and activations: half the memory and, since decoding waits for memory, up
    /// to twice the speed. Numbers of another format are rounded to nearest.
    BF16,
    /// Eight bits: one scale for each output channel; activations are quantised on the fly, with
    /// one scale for each token and 128 channels.
    Int8,
    /// Four bits, and a bf16 scale for each output channel and 32 input channels, 4.5 bits in all;
    /// activations as for eight bits, with a scale for 32 channels.
    Int4,
}

impl DType {
    /// Every type, from the most precise to the smallest.
    pub const ALL: [DType; 4] = [DType::F32, DType::BF16, DType::Int8, DType::Int4];

    /// How keys and values are stored beside weights of this type: [`DType::F32`] or
    /// [`DType::BF16`].
    pub const fn kv(self) -> DType {
        match self {
            DType::F32 => DType::F32,
            DType::BF16 | DType::Int8 | DType::Int4 => DType::BF16,
        }
    }

    /// Bits of a weight, scales of groups included.
    pub const fn bits(self) -> f64 {
        match self {
            DType::F32 => 32.0,
            DType::BF16 => 16.0,
            DType::Int8 => 8.0,
            DType::Int4 => 4.5,
        }
    }

    pub(crate) const fn format(self) -> Format {
        match self {
            DType::F32 => Format::F32,
            DType::BF16 => Format::Bf16,
            DType::Int8 => Format::Int8,
            DType::Int4 => Format::Int4,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::Int8 => "int8",
            DType::Int4 => "int4",
        })
    }
}

/// By the name that [`Display`](fmt::Display) writes.
///
/// ```
/// use llmserve_model::DType;
/// assert_eq!("int8".parse::<DType>()?, DType::Int8);
/// assert!("fp8".parse::<DType>().is_err());
/// # Ok::<(), llmserve_model::LoadError>(())
/// ```
impl FromStr for DType {
    type Err = LoadError;

    fn from_str(name: &str) -> Result<Self, LoadError> {
        by_name("dtype", name, &Self::ALL)
    }
}

/// The value of an option that goes by `name`.
pub(crate) fn by_name<T: Copy + fmt::Display>(
    option: &'static str,
    name: &str,
    all: &[T],
) -> Result<T, LoadError> {
    let found = all.iter().find(|value| value.to_string() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(T::to_string).collect();
        LoadError::InvalidOption {
            option,
            reason: format!("{name:?}, expected one of {}", names.join(", ")),
        }
    })
}

/// How [`CpuModel::build`](crate::CpuModel::build) makes a model.
///
/// ```
/// use llmserve_model::{CpuOptions, DType, Kernels};
/// let options = CpuOptions {
///     dtype: DType::BF16,
///     threads: Some(2),
///     kernels: Some(Kernels::Portable),
///     ..CpuOptions::default()
/// };
/// assert_eq!(options.name, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpuOptions {
    /// How weights are stored and multiplied. Default: `f32`.
    pub dtype: DType,
    /// Threads that compute, the engine's own one included. Default:
    /// [`physical_cores`](crate::physical_cores).
    pub threads: Option<usize>,
    /// The instructions to use. Default: [`Kernels::detect`].
    pub kernels: Option<Kernels>,
    /// The name that metrics and answers carry. Default: the architecture's.
    pub name: Option<String>,
}
