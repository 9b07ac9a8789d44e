//! What each way to store weights may cost.

use llmserve_model::DType;

/// A way to store weights, and how far its perplexity may be from that of `f32`, as a share of it.
pub(crate) struct Bound {
    /// How weights are stored.
    pub(crate) dtype: DType,
    /// On the model as it is.
    pub(crate) plain: f64,
    /// On the model whose activations have large channels ([`Rescale`](crate::rescale::Rescale)),
    /// where one is promised.
    pub(crate) rescaled: Option<f64>,
}

/// All of them.
pub(crate) const BOUNDS: [Bound; 4] = [
    Bound {
        dtype: DType::F32,
        plain: 1e-4,
        rescaled: Some(1e-4),
    },
    Bound {
        dtype: DType::BF16,
        plain: 0.003,
        rescaled: Some(0.003),
    },
    Bound {
        dtype: DType::Int8,
        plain: 0.005,
        rescaled: Some(0.02),
    },
    Bound {
        dtype: DType::Int4,
        plain: 0.04,
        rescaled: Some(0.04),
    },
];
