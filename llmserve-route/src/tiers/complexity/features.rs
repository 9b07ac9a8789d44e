//! Several signs, weighed.

use llmserve_core::Request;

use super::{ByKeywords, ByLength, ComplexityError, Estimator, asked};

/// The weighted mean of several estimators; those that cannot judge a request have no say.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::tiers::{ByFeatures, ByLength, Estimator};
/// let features = ByFeatures::default()
///     .feature(3.0, ByLength::new(100)?)?
///     .feature(1.0, |request: &Request| Some(if request.n > 1 { 1.0 } else { 0.0 }))?;
/// assert_eq!(features.estimate(&Request::tokens([1; 50])), Some(0.375));
/// # Ok::<(), llmserve_route::tiers::ComplexityError>(())
/// ```
#[derive(Default)]
pub struct ByFeatures {
    features: Vec<(f32, Box<dyn Estimator>)>,
}

/// What asks for thought, in English.
const THOUGHT: [(&str, f32); 16] = [
    ("analyse", 0.8),
    ("analyze", 0.8),
    ("architecture", 0.8),
    ("compare", 0.7),
    ("debug", 0.9),
    ("derive", 1.0),
    ("design", 0.8),
    ("evaluate", 0.8),
    ("explain why", 0.7),
    ("hello", 0.0),
    ("optimise", 0.9),
    ("optimize", 0.9),
    ("prove", 1.0),
    ("step by step", 0.9),
    ("thank you", 0.0),
    ("translate", 0.3),
];

impl ByFeatures {
    /// Three signs of English requests: length (1 at 2,000 tokens; weight 2), words that ask for
    /// thought, such as "prove" (weight 3), and signs that occur in code and formulas (1 where
    /// they are a tenth of all; weight 1).
    ///
    /// A beginning: a host that knows its requests does better with
    /// [`ByExamples`](super::ByExamples).
    pub fn standard() -> Self {
        // Both are made from constants that are right; were they not, they would have no say.
        let length = ByLength::new(2_000).ok();
        let words = ByKeywords::new(THOUGHT).ok();
        let length = move |request: &Request| length.as_ref()?.estimate(request);
        let words = move |request: &Request| words.as_ref()?.estimate(request);
        Self {
            features: vec![
                (2.0, Box::new(length)),
                (3.0, Box::new(words)),
                (1.0, Box::new(formal)),
            ],
        }
    }

    /// Adds a sign.
    ///
    /// # Errors
    /// A weight that is not above 0 and finite.
    pub fn feature(
        mut self,
        weight: f32,
        estimator: impl Estimator + 'static,
    ) -> Result<Self, ComplexityError> {
        if !(weight > 0.0 && weight.is_finite()) {
            return Err(ComplexityError::BadValue {
                what: "the weight of a feature".to_owned(),
                value: weight.to_string(),
                reason: "it must be above 0 and finite",
            });
        }
        self.features.push((weight, Box::new(estimator)));
        Ok(self)
    }
}

/// How much looks like code or formulas.
fn formal(request: &Request) -> Option<f32> {
    let text = asked(request)?;
    let signs = text.chars().filter(|c| "{}[]()<>=+*/\\^_;#|&".contains(*c));
    let all = text.chars().count();
    (all > 0).then(|| (10.0 * signs.count() as f32 / all as f32).min(1.0))
}

impl Estimator for ByFeatures {
    fn estimate(&self, request: &Request) -> Option<f32> {
        let (mut sum, mut of) = (0.0, 0.0);
        for (weight, estimator) in &self.features {
            if let Some(complexity) = estimator.estimate(request) {
                sum += weight * complexity.clamp(0.0, 1.0);
                of += weight;
            }
        }
        (of > 0.0).then(|| sum / of)
    }
}

impl std::fmt::Debug for ByFeatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let weights = self.features.iter().map(|(weight, _)| weight);
        f.debug_list().entries(weights).finish()
    }
}
