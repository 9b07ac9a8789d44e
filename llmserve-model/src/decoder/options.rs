//! How a model is to be computed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::kernels::Kernels;

/// How weights and KV pages are stored; sums are always `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision: four bytes, and the checkpoint's numbers unchanged.
    #[default]
    F32,
    /// bfloat16: half the memory and, since decoding waits for memory, up to twice the speed.
    /// Weights of another format, keys and values are rounded to nearest.
    BF16,
}

impl DType {
    /// Bytes of a number.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::BF16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
        })
    }
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
    /// How weights and KV pages are stored. Default: `f32`.
    pub dtype: DType,
    /// Threads that compute, the engine's own one included. Default:
    /// [`physical_cores`](crate::physical_cores).
    pub threads: Option<usize>,
    /// The instructions to use. Default: [`Kernels::detect`].
    pub kernels: Option<Kernels>,
    /// The name that metrics and answers carry. Default: the architecture's.
    pub name: Option<String>,
}
