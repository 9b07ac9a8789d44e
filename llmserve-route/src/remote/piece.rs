//! What an endpoint says at once, whatever its dialect.

use llmserve_core::{FinishReason, TokenId, TokenLogprobs};

/// One event of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) prompt_ids: Option<Vec<TokenId>>,
    pub(super) parts: Vec<Part>,
    pub(super) used: Used,
    /// Nothing follows.
    pub(super) done: bool,
}

/// What it adds to a choice.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) index: usize,
    pub(super) text: String,
    pub(super) ids: Vec<TokenId>,
    /// As many as ids, or none.
    pub(super) logprobs: Vec<TokenLogprobs>,
    pub(super) finish: Option<FinishReason>,
}

/// Tokens used, as far as they were told. Totals over all choices.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) prompt: Option<usize>,
    pub(super) cached: Option<usize>,
    pub(super) completion: Option<usize>,
}

impl Used {
    /// What `later` says replaces what was said before.
    pub(super) fn update(&mut self, later: Used) {
        self.prompt = later.prompt.or(self.prompt);
        self.cached = later.cached.or(self.cached);
        self.completion = later.completion.or(self.completion);
    }
}

/// An event that says that there is no answer, or says nothing that can be understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The endpoint's own error: its status, if it gave one, and its name.
    Said { status: Option<u16>, name: String },
    /// It is no event of this dialect.
    Garbled,
}
