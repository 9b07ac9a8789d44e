//! Whether an answer is good enough.

use llmserve_core::{Choice, FinishReason, Request, Response};

/// Looks at a complete answer and says whether it is good enough. A closure from a request and its
/// answer to a `bool` is one.
///
/// ```
/// use llmserve_core::{Request, Response};
/// use llmserve_route::tiers::QualityCheck;
/// let polite = |_: &Request, answer: &Response| answer.text().contains("please");
/// assert!(!polite.accepts(&Request::text("Hi"), &Response::default()));
/// ```
pub trait QualityCheck: Send + Sync {
    /// Whether it is. Called on the thread that reads the stream.
    fn accepts(&self, request: &Request, answer: &Response) -> bool;

    /// Whether it looks at the logprobs of the answer's tokens: they are then asked for, and not
    /// passed on where the request did not. No, unless said otherwise.
    fn wants_logprobs(&self) -> bool {
        false
    }
}

impl<F: Fn(&Request, &Response) -> bool + Send + Sync> QualityCheck for F {
    fn accepts(&self, request: &Request, answer: &Response) -> bool {
        self(request, answer)
    }
}

/// Every choice came to its end by itself: neither its length, nor its deadline, nor a filter cut
/// it off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whole;

impl QualityCheck for Whole {
    fn accepts(&self, _request: &Request, answer: &Response) -> bool {
        every(answer, |choice| {
            !matches!(
                choice.reason,
                None | Some(FinishReason::Length | FinishReason::Deadline | FinishReason::Other(_))
            )
        })
    }
}

/// Every choice has at least so many tokens: as its usage says or, where that says nothing, as
/// came.
#[derive(Clone, Copy, Debug)]
pub struct MinimumTokens(pub usize);

impl QualityCheck for MinimumTokens {
    fn accepts(&self, _request: &Request, answer: &Response) -> bool {
        every(answer, |choice| {
            choice.usage.completion_tokens.max(choice.ids.len()) >= self.0
        })
    }
}

/// The tokens of every choice have at least this mean natural-log probability: how sure the model
/// was. An answer without logprobs, and a mean that is no number, is not accepted.
#[derive(Clone, Copy, Debug)]
pub struct MeanLogprob(pub f32);

impl QualityCheck for MeanLogprob {
    fn accepts(&self, _request: &Request, answer: &Response) -> bool {
        every(answer, |choice| {
            let of = choice.logprobs.len() as f64;
            let sum: f64 = choice.logprobs.iter().map(|at| f64::from(at.logprob)).sum();
            sum / of >= f64::from(self.0)
        })
    }

    fn wants_logprobs(&self) -> bool {
        true
    }
}

/// All of several checks.
///
/// ```
/// use llmserve_route::tiers::{AllOf, MeanLogprob, MinimumTokens, QualityCheck, Whole};
/// let check = AllOf::default().and(Whole).and(MinimumTokens(8)).and(MeanLogprob(-1.5));
/// assert!(check.wants_logprobs());
/// ```
#[derive(Default)]
pub struct AllOf(Vec<Box<dyn QualityCheck>>);

impl AllOf {
    /// And this one.
    pub fn and(mut self, check: impl QualityCheck + 'static) -> Self {
        self.0.push(Box::new(check));
        self
    }
}

impl QualityCheck for AllOf {
    fn accepts(&self, request: &Request, answer: &Response) -> bool {
        self.0.iter().all(|check| check.accepts(request, answer))
    }

    fn wants_logprobs(&self) -> bool {
        self.0.iter().any(|check| check.wants_logprobs())
    }
}

impl std::fmt::Debug for AllOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AllOf").field(&self.0.len()).finish()
    }
}

/// Whether all choices are such; none at all are not.
fn every(answer: &Response, such: impl Fn(&Choice) -> bool) -> bool {
    !answer.choices.is_empty() && answer.choices.iter().all(such)
}
