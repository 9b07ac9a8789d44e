//! What a decision looks at.

use llmserve_core::{BlockIdentity, Request, Time};

use crate::tiers::Complexity;

/// A request, and what was found out about it before the decision.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::{Ask, Prepared};
/// let request = Request::tokens([1, 2, 3]).max_tokens(5).model("small");
/// let prepared = Prepared::default();
/// let ask = Ask::new(&request, &prepared);
/// assert_eq!((ask.model, ask.prompt_tokens, ask.tokens), (Some("small"), 3, 8));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ask<'a> {
    /// The request, as the router was given it.
    pub request: &'a Request,
    /// The model that is looked for now: the request's or, where that has no replica, the one
    /// that stands in for it. None: any.
    pub model: Option<&'a str>,
    /// The time of the decision, by the router's clock.
    pub now: Time,
    /// [`estimated_tokens`](crate::estimated_tokens) of the request.
    pub tokens: u64,
    /// [`prompt_tokens`](crate::prompt_tokens) of the request.
    pub prompt_tokens: u64,
    /// What the strategy had prepared.
    pub prepared: &'a Prepared,
}

impl<'a> Ask<'a> {
    /// An ask at time 0. Routers make them; a test of a strategy may.
    pub fn new(request: &'a Request, prepared: &'a Prepared) -> Self {
        Self {
            request,
            model: request.model.as_deref(),
            now: Time::ZERO,
            tokens: crate::estimated_tokens(request),
            prompt_tokens: crate::prompt_tokens(request),
            prepared,
        }
    }

    /// See [`Prepared::key`].
    pub fn key(&self) -> Option<u64> {
        self.prepared.key
    }

    /// See [`Prepared::blocks`].
    pub fn blocks(&self) -> &'a [BlockIdentity] {
        &self.prepared.blocks
    }
}

/// What a strategy wants to know of a request that takes time to find out: computed once a
/// request, before the router's lock, by [`Strategy::prepare`](crate::Strategy::prepare).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// A hash of what belongs together. None: nothing to go by.
    pub key: Option<u64>,
    /// The identities of the prompt's full KV blocks, in order. Empty: not known.
    pub blocks: Vec<BlockIdentity>,
    /// How hard the request is. None: nobody has said.
    pub complexity: Option<Complexity>,
}

impl Prepared {
    /// This, with what it lacks taken from `other`.
    pub fn or(mut self, other: Self) -> Self {
        self.key = self.key.or(other.key);
        if self.blocks.is_empty() {
            self.blocks = other.blocks;
        }
        self.complexity = self.complexity.or(other.complexity);
        self
    }
}
