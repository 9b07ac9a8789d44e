//! How hard a request is, guessed before it is answered.

mod examples;
mod features;
mod keywords;
mod length;

pub use examples::ByExamples;
pub use features::ByFeatures;
pub use keywords::ByKeywords;
pub use length::ByLength;

use llmserve_core::{Prompt, Request};

/// Bytes of a text that are read: enough for a question, and a bound on the time of a guess.
const READ: usize = 8 << 10;

/// How hard a request is: 0 for what anybody can answer, 1 for what only the best can.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Complexity(f32);

// Never a NaN.
impl Eq for Complexity {}

impl Complexity {
    /// The nearest complexity to a number; of none, 1: what cannot be judged is not easy.
    ///
    /// ```
    /// use llmserve_route::tiers::Complexity;
    /// assert_eq!(Complexity::new(-2.0).get(), 0.0);
    /// assert_eq!(Complexity::new(f32::NAN).get(), 1.0);
    /// ```
    pub fn new(number: f32) -> Self {
        if number.is_nan() {
            return Self(1.0);
        }
        Self(number.clamp(0.0, 1.0))
    }

    /// From 0 to 1.
    pub fn get(self) -> f32 {
        self.0
    }
}

/// Guesses how hard a request is. A closure from a request to an `Option<f32>` is one.
///
/// Called once a request on the thread that calls `generate()`: be quick.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::tiers::Estimator;
/// let by_session = |request: &Request| request.routing.session.as_ref().map(|_| 0.8);
/// assert_eq!(by_session.estimate(&Request::text("Hi")), None);
/// ```
pub trait Estimator: Send + Sync {
    /// From 0 to 1, others being taken as the nearest of that. None: cannot be judged.
    fn estimate(&self, request: &Request) -> Option<f32>;
}

impl<F: Fn(&Request) -> Option<f32> + Send + Sync> Estimator for F {
    fn estimate(&self, request: &Request) -> Option<f32> {
        self(request)
    }
}

/// What is wrong with an estimator's parts.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ComplexityError {
    /// There is nothing to go by.
    #[error("an estimator by {what} needs at least one")]
    Nothing {
        /// What there is none of.
        what: &'static str,
    },
    /// A number that cannot be.
    #[error("{what} is {value}: {reason}")]
    BadValue {
        /// What it is of.
        what: String,
        /// The number.
        value: String,
        /// What it must be.
        reason: &'static str,
    },
    /// Two embeddings do not compare.
    #[error("example {example} has an embedding of {dimensions} numbers, the first one of {first}")]
    Dimensions {
        /// Its place, from 0.
        example: usize,
        /// Its embedding's length.
        dimensions: usize,
        /// The first one's.
        first: usize,
    },
    /// An embedding points nowhere.
    #[error("the embedding of example {example} has no direction: all zero, or not finite")]
    NoDirection {
        /// Its place, from 0.
        example: usize,
    },
}

/// Checks a complexity of `what`.
fn check(what: &str, value: f32) -> Result<(), ComplexityError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(ComplexityError::BadValue {
        what: what.to_owned(),
        value: value.to_string(),
        reason: "a complexity is from 0 to 1",
    })
}

/// What is asked: the text, or the last thing the user said. None where there is no text.
fn asked(request: &Request) -> Option<&str> {
    let text = match &request.prompt {
        Prompt::Text(text) => text.as_str(),
        Prompt::Messages(messages) => {
            let mut said = messages.iter().rev();
            said.find(|message| message.role == "user")?
                .content
                .as_str()
        }
        _ => return None,
    };
    Some(&text[..text.floor_char_boundary(READ)])
}
