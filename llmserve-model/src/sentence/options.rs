//! How an encoder is to be computed.

use serde::{Deserialize, Serialize};

use crate::decoder::DType;
use crate::kernels::Kernels;

/// How [`SentenceEncoder::open`](super::SentenceEncoder::open) makes an encoder.
///
/// ```
/// use llmserve_model::{DType, EncoderOptions};
/// let options = EncoderOptions { dtype: DType::BF16, ..EncoderOptions::default() };
/// assert_eq!(options.threads, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderOptions {
    /// How weights are stored and multiplied; attention is always `f32`. Default: `f32`.
    pub dtype: DType,
    /// Threads that compute, the calling one included. Default:
    /// [`physical_cores`](crate::physical_cores).
    pub threads: Option<usize>,
    /// The instructions to use. Default: [`Kernels::detect`].
    pub kernels: Option<Kernels>,
}
