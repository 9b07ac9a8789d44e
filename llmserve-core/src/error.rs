//! Why a request has no answer, or no more of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::contract::grammar::GrammarError;
use crate::contract::kv::KvError;
use crate::contract::model::ModelError;
use crate::contract::tokenizer::TokenizerError;

/// Why a request failed. Names the thing, the limit and the way out; carries no prompt.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the request cannot be honoured.
    #[error("invalid request: {field}: {reason}")]
    InvalidRequest {
        /// The field, by its name in [`crate::Request`].
        field: &'static str,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// The prompt is longer than the model or the KV cache allows.
    #[error(
        "the prompt has {tokens} tokens, {limited_by} allows {limit} with room for one more: shorten it"
    )]
    PromptTooLong {
        /// The prompt's tokens.
        tokens: usize,
        /// The most that would be accepted.
        limit: usize,
        /// What sets the limit: the model's context, or the KV cache's blocks.
        limited_by: String,
    },
    /// Too much is waiting already. Nothing is wrong with the request.
    #[error("overloaded: {waiting} {unit} are waiting, the limit is {limit}: try again later")]
    Overloaded {
        /// How much is waiting.
        waiting: usize,
        /// The limit.
        limit: usize,
        /// What is counted: `"requests"` or `"prompt tokens"`, of all, `"of this tenant"`, or of one
        /// tenant whose constraints are to be compiled.
        unit: &'static str,
        /// When to try again, where it can be told.
        retry_after: Option<Duration>,
    },
    /// The tokenizer or the chat template failed on this prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The constraint has no grammar, or its grammar failed.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// The model produced a logit that is not a number.
    #[error(
        "the model produced a non-finite logit ({value}) for token {token} after position {position}"
    )]
    NonFiniteLogits {
        /// Position of the last input token.
        position: usize,
        /// The first token with such a logit.
        token: u32,
        /// The logit, as text.
        value: String,
    },
    /// Nothing may be sampled: every token was ruled out.
    #[error(
        "no token may follow position {position}: bias, processors or a grammar rule all of them out"
    )]
    NothingToSample {
        /// Position of the last input token.
        position: usize,
    },
    /// The model failed in a step this request took part in.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A plug-in or part panicked.
    #[error("{part} panicked: {message}")]
    Panicked {
        /// Which part.
        part: &'static str,
        /// The panic's message.
        message: String,
    },
    /// Nobody behind this service knows the model.
    #[error("unknown model {name:?}; known: {known}")]
    UnknownModel {
        /// The model asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A model that is known could not be loaded.
    #[error("model {model:?} cannot be loaded: {reason}")]
    LoadFailed {
        /// The model.
        model: String,
        /// What went wrong, or which limit it is too large for.
        reason: String,
        /// When it will be tried again, where it will be.
        retry_after: Option<Duration>,
    },
    /// The KV manager refused a call that its contract lets succeed.
    #[error("KV cache: {0}")]
    Kv(#[from] KvError),
    /// The prefix cache cannot be reset while requests use it.
    #[error("{held} KV blocks are held by requests: reset when the engine is idle")]
    CacheHeld {
        /// Blocks held.
        held: usize,
    },
    /// A remote endpoint failed.
    #[error("endpoint {endpoint}{}: {message}", .status.map_or(String::new(), |code| format!(" answered {code}")))]
    Upstream {
        /// The endpoint's name.
        endpoint: String,
        /// The HTTP status it answered with; none where no answer came.
        status: Option<u16>,
        /// What went wrong. No key and no prompt.
        message: String,
        /// When to try again, where the endpoint said so.
        retry_after: Option<Duration>,
    },
    /// Whoever should have answered did not in time.
    #[error("timed out: no {what} within {limit:?}")]
    TimedOut {
        /// What did not happen: `"connection"`, `"loaded model"`, `"first token"`, `"next token"` or `"end"`.
        what: &'static str,
        /// The time there was for it.
        limit: Duration,
    },
    /// A limit on what somebody may ask for was reached.
    #[error("rate limited: {limit} {unit} are allowed: try again later")]
    RateLimited {
        /// The limit.
        limit: u64,
        /// What is counted, such as `"requests a minute"`.
        unit: &'static str,
        /// When to try again; none where a request of this size never passes.
        retry_after: Option<Duration>,
    },
    /// Somebody knows the model, but nobody may or can answer now.
    #[error("no replica can answer: {reason}")]
    NoReplica {
        /// What ruled them out.
        reason: String,
        /// When that may have changed, where it can be told.
        retry_after: Option<Duration>,
    },
    /// The request was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The service has been shut down or is draining.
    #[error("the service is shut down")]
    ShutDown,
}

impl Error {
    /// A short, stable name for machines.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::InvalidRequest { .. } => "invalid_request",
            Error::PromptTooLong { .. } => "prompt_too_long",
            Error::Overloaded { .. } => "overloaded",
            Error::Tokenizer(_) => "tokenizer",
            Error::Grammar(_) => "grammar",
            Error::NonFiniteLogits { .. } => "non_finite_logits",
            Error::NothingToSample { .. } => "nothing_to_sample",
            Error::Model(_) => "model",
            Error::Panicked { .. } => "panicked",
            Error::UnknownModel { .. } => "unknown_model",
            Error::LoadFailed { .. } => "load_failed",
            Error::Kv(_) => "kv",
            Error::CacheHeld { .. } => "cache_held",
            Error::Upstream { .. } => "upstream",
            Error::TimedOut { .. } => "timed_out",
            Error::RateLimited { .. } => "rate_limited",
            Error::NoReplica { .. } => "no_replica",
            Error::Cancelled => "cancelled",
            Error::ShutDown => "shut_down",
        }
    }

    /// When to try again, where the error says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Overloaded { retry_after, .. }
            | Error::Upstream { retry_after, .. }
            | Error::RateLimited { retry_after, .. }
            | Error::NoReplica { retry_after, .. }
            | Error::LoadFailed { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A field that cannot be honoured, and why.
    pub fn invalid_request(field: &'static str, reason: impl Into<String>) -> Self {
        Error::InvalidRequest {
            field,
            reason: reason.into(),
        }
    }
}

/// The text of a panic, for [`Error::Panicked`].
pub fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

/// What `run` gives, or the text of its panic: for code that somebody else brought along, of which
/// no panic may get any further.
///
/// ```
/// use llmserve_core::error::guarded;
/// assert_eq!(guarded(|| 1 + 1), Ok(2));
/// assert_eq!(guarded(|| panic!("on purpose")), Err::<(), _>("on purpose".to_owned()));
/// ```
///
/// # Errors
/// What it panicked with, as [`panic_message`] has it.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let message = panic_message(&*payload);
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            // There is no end to payloads that panic when they are dropped: this one leaks.
            std::mem::forget(second);
        }
        message
    })
}
