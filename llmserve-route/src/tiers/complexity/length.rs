//! Long is hard.

use llmserve_core::Request;

use super::{ComplexityError, Estimator};
use crate::estimate::prompt_tokens;

/// By the prompt's [length](crate::prompt_tokens): 0 for none, 1 for so many tokens or more, and
/// in proportion between.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::tiers::{ByLength, Estimator};
/// let length = ByLength::new(2_000)?;
/// assert_eq!(length.estimate(&Request::tokens([1; 500])), Some(0.25));
/// # Ok::<(), llmserve_route::tiers::ComplexityError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ByLength {
    full: u64,
}

impl ByLength {
    /// 1 for prompts of `tokens` and more.
    ///
    /// # Errors
    /// 0 tokens.
    pub fn new(tokens: u64) -> Result<Self, ComplexityError> {
        if tokens == 0 {
            return Err(ComplexityError::BadValue {
                what: "the length of the hardest prompt".to_owned(),
                value: "0".to_owned(),
                reason: "1 token is the least",
            });
        }
        Ok(Self { full: tokens })
    }
}

impl Estimator for ByLength {
    fn estimate(&self, request: &Request) -> Option<f32> {
        Some((prompt_tokens(request) as f64 / self.full as f64).min(1.0) as f32)
    }
}
