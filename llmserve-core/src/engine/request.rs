//! A request inside the engine, and its sequences.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Place;
use super::channel::Sink;
use super::constrain::Constrained;
use crate::contract::clock::Time;
use crate::contract::grammar::Grammar;
use crate::contract::proposer::Distribution;
use crate::event::{Event, TokenLogprobs, Usage};
use crate::identity::Extras;
use crate::ids::{SequenceId, TokenId};
use crate::request::Request;
use crate::sampling::{LogitsProcessor, Sampler, Sampling};
use crate::text::{IncrementalDecoder, StopStrings};

/// What does not change while a request is served.
pub(super) struct Spec {
    pub(super) key: u64,
    pub(super) prompt: Arc<[TokenId]>,
    pub(super) sampling: Sampling,
    /// Tokens of the answer that another run has generated.
    pub(super) resume: Vec<TokenId>,
    /// A sequence of this many tokens is complete.
    pub(super) max_total: usize,
    pub(super) min_tokens: usize,
    pub(super) ignore_eos: bool,
    pub(super) stop_tokens: Vec<TokenId>,
    pub(super) stop: Vec<String>,
    /// None where any form will do.
    pub(super) grammar: Option<Arc<dyn Grammar>>,
    pub(super) n: usize,
    pub(super) logprobs: Option<usize>,
    pub(super) prompt_logprobs: Option<usize>,
    pub(super) skip_special_tokens: bool,
    pub(super) priority: i32,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) deadline: Option<Time>,
    pub(super) processors: Vec<Arc<dyn LogitsProcessor>>,
    /// Most drafts a step; 0 where the request does not want any.
    pub(super) draft_depth: usize,
    pub(super) arrival: Time,
    pub(super) span: tracing::Span,
}

impl Spec {
    pub(super) fn new(
        request: Request,
        key: u64,
        prompt: Vec<TokenId>,
        grammar: Option<Arc<dyn Grammar>>,
        max_len: usize,
        arrival: Time,
        span: tracing::Span,
    ) -> Self {
        let wanted = request.max_tokens.unwrap_or(usize::MAX);
        Self {
            key,
            sampling: request.sampling,
            max_total: prompt.len().saturating_add(wanted).min(max_len),
            prompt: prompt.into(),
            resume: request.resume,
            min_tokens: request.min_tokens,
            ignore_eos: request.ignore_eos,
            stop_tokens: request.stop_tokens,
            stop: request.stop,
            grammar,
            n: request.n,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            skip_special_tokens: request.skip_special_tokens,
            priority: request.priority,
            tenant: request.tenant.map(Into::into),
            deadline: request.deadline.map(|after| arrival.saturating_add(after)),
            processors: request.processors,
            draft_depth: match request.speculative {
                true => request.draft_depth.unwrap_or(usize::MAX),
                false => 0,
            },
            arrival,
            span,
        }
    }

    /// What keeps this request's KV apart from others'.
    pub(super) fn extras(&self) -> Extras {
        extras(self.tenant.as_deref())
    }

    /// For the sequence that computes a prefix: behind everybody, and without drafts.
    pub(super) fn of_prefix(
        key: u64,
        tokens: &[TokenId],
        tenant: Option<Arc<str>>,
        arrival: Time,
    ) -> Self {
        let request = Request::tokens(Vec::new())
            .max_tokens(1)
            .priority(i32::MAX)
            .speculative(false);
        let (max_len, span) = (usize::MAX, tracing::Span::none());
        Self {
            tenant,
            ..Self::new(request, key, tokens.to_vec(), None, max_len, arrival, span)
        }
    }
}

/// What keeps a tenant's KV apart from others'.
pub(super) fn extras(tenant: Option<&str>) -> Extras {
    match tenant {
        Some(tenant) => Extras::default().tenant(tenant),
        None => Extras::default(),
    }
}

/// Those who want to know when nothing is left to do for a request. Told when this goes.
pub(super) struct Ends(pub(super) Vec<Arc<dyn Fn() + Send + Sync>>);

impl Drop for Ends {
    fn drop(&mut self) {
        for ended in self.0.drain(..) {
            // A host's own code, on the engine's thread.
            let _ = catch_unwind(AssertUnwindSafe(|| ended()));
        }
    }
}

/// A request on its way from the intake to the engine thread.
pub(super) struct Prepared {
    pub(super) spec: Spec,
    pub(super) sink: Sink,
    pub(super) place: Place,
    pub(super) ends: Ends,
}

/// A request in the engine.
pub(super) struct Live {
    pub(super) spec: Arc<Spec>,
    pub(super) sink: Sink,
    /// The sequences of choices that have begun and not ended.
    pub(super) sequences: Vec<SequenceId>,
    /// Whether the prompt is computed: every choice has its first token.
    pub(super) started: bool,
    /// Choices that have not ended.
    pub(super) remaining: usize,
    pub(super) cached_tokens: usize,
    pub(super) admitted: Option<Time>,
    pub(super) prompt_logprobs: Vec<TokenLogprobs>,
    /// Events of this step, handed over after its commit.
    pub(super) outbox: Vec<Event>,
    pub(super) _ends: Ends,
}

impl Live {
    pub(super) fn usage(&self, completion_tokens: usize) -> Usage {
        Usage {
            prompt_tokens: self.spec.prompt.len(),
            cached_tokens: self.cached_tokens,
            completion_tokens,
        }
    }
}

/// One choice of a request.
pub(super) struct Sequence {
    pub(super) request: u64,
    pub(super) spec: Arc<Spec>,
    pub(super) choice: usize,
    /// Prompt and output.
    pub(super) tokens: Vec<TokenId>,
    pub(super) sampler: Sampler,
    /// None where any form will do, and while the threads for masks have it.
    pub(super) constrained: Option<Box<Constrained>>,
    /// None where the engine has no tokenizer.
    pub(super) text: Option<Text>,
    pub(super) first_token: Option<Time>,
    pub(super) last_token: Time,
    /// The last step that had a row of it.
    pub(super) step: u64,
    /// The last step after which a forced run was appended.
    pub(super) jumped: u64,
    /// Guesses for what comes after `tokens`.
    pub(super) draft: Draft,
}

/// What a proposer thinks comes next.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) tokens: Vec<TokenId>,
    /// What each was drawn from; empty if all are certain.
    pub(super) distributions: Vec<Distribution>,
}

impl Draft {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.distributions.clear();
    }
}

/// The text side of a choice.
pub(super) struct Text {
    pub(super) decoder: IncrementalDecoder,
    pub(super) stops: StopStrings,
}

impl Text {
    /// All text still held back that is complete.
    pub(super) fn flush(&mut self) -> String {
        let mut text = self.decoder.finish();
        let scan = self.stops.push(&text);
        text = scan.emit;
        if scan.matched.is_none() {
            text.push_str(&self.stops.finish());
        }
        text
    }
}

impl Sequence {
    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.spec.prompt.len()
    }
}
