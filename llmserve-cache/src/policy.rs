//! Which requests are looked up, and which answers are kept.

use std::sync::Arc;

use llmserve_core::{FinishReason, Request};

/// Which requests take part and which of their answers are kept.
///
/// By default, what cannot go wrong: requests whose answer is the same every time (greedy, or
/// sampled with a seed), and answers in which every choice ended by itself. Never an error, an
/// answer that a deadline cut off, or one whose reader left: for these there is no setting.
///
/// ```
/// use llmserve_cache::Policy;
/// use llmserve_core::Request;
///
/// let policy = Policy::default();
/// assert!(policy.takes_part(&Request::text("Hi")));
/// assert!(policy.takes_part(&Request::text("Hi").temperature(0.8).seed(7)));
/// assert!(!policy.takes_part(&Request::text("Hi").temperature(0.8)));
///
/// // For a host whose users would rather have the same answer twice than wait.
/// let loose = Policy::default().sampled(true).only(|request| request.max_tokens <= Some(256));
/// assert!(loose.takes_part(&Request::text("Hi").temperature(0.8).max_tokens(64)));
/// assert!(!loose.takes_part(&Request::text("Hi").max_tokens(1_000)));
/// ```
#[derive(Clone, Default)]
pub struct Policy {
    sampled: bool,
    truncated: bool,
    tool_calls: bool,
    only: Option<Arc<Chosen>>,
}

type Chosen = dyn Fn(&Request) -> bool + Send + Sync;

impl Policy {
    /// Whether requests that sample without a seed take part too: who asks again then gets the
    /// first answer and no other. Default: no.
    pub fn sampled(mut self, sampled: bool) -> Self {
        self.sampled = sampled;
        self
    }

    /// Whether answers are kept that `max_tokens` or the context's end cut off
    /// ([`FinishReason::Length`]). They are the right answers to equal requests, as the limit is
    /// part of the key, and still half a sentence. Default: no.
    pub fn truncated(mut self, truncated: bool) -> Self {
        self.truncated = truncated;
        self
    }

    /// Whether answers are kept that call tools (`tool_calls` and `function_call` of a remote
    /// endpoint). Whoever gets one acts on it, so a kept one acts again. Default: no.
    pub fn tool_calls(mut self, tool_calls: bool) -> Self {
        self.tool_calls = tool_calls;
        self
    }

    /// Only requests of which `chosen` holds take part, besides all else. Called on the thread
    /// that calls `generate()`; if it panics, the request takes no part. Default: all.
    pub fn only(mut self, chosen: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.only = Some(Arc::new(chosen));
        self
    }

    /// Whether a request is looked up and its answer kept.
    pub fn takes_part(&self, request: &Request) -> bool {
        let sampling = &request.sampling;
        let same_again = sampling.is_greedy() || sampling.seed.is_some();
        (same_again || self.sampled) && self.only.as_ref().is_none_or(|chosen| chosen(request))
    }

    /// Whether an answer with a choice that ended so is kept. A reason this crate does not know is
    /// no reason to.
    pub fn keeps(&self, reason: &FinishReason) -> bool {
        match reason {
            FinishReason::Eos(_)
            | FinishReason::StopToken(_)
            | FinishReason::StopString(_)
            | FinishReason::Complete
            | FinishReason::Stop => true,
            FinishReason::Length => self.truncated,
            FinishReason::Other(name) => {
                self.tool_calls && matches!(&**name, "tool_calls" | "function_call" | "tool_use")
            }
            _ => false,
        }
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("sampled", &self.sampled)
            .field("truncated", &self.truncated)
            .field("tool_calls", &self.tool_calls)
            .field("only", &self.only.is_some())
            .finish()
    }
}
