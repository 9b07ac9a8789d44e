//! What an answer has said so far, as another replica needs it to go on.

use llmserve_core::{Event, Request, Time, TokenId};

use crate::router::assigned::Assigned;

/// The tokens passed on, and whose weights they are from.
pub(super) struct Said {
    identity: String,
    tokens: Vec<TokenId>,
    /// When the first one came.
    first: Option<Time>,
}

impl Said {
    /// Nothing yet; none where the answer to `request` could not go on elsewhere. It can where it
    /// is a function of prompt, parameters and weights: one choice, greedy or with a seed, without
    /// a host's own code that may remember what it has seen.
    pub(super) fn of(request: &Request, assigned: &Assigned) -> Option<Self> {
        let sampling = &request.sampling;
        let repeatable = (sampling.is_greedy() || sampling.seed.is_some())
            && request.n == 1
            && request.processors.is_empty();
        let identity = assigned.replica().info().identity.clone()?;
        repeatable.then_some(Self {
            identity,
            tokens: Vec::new(),
            first: None,
        })
    }

    /// The weights.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// With what `event` says. None: it says something else than tokens, or all has been said.
    pub(super) fn note(mut self, event: &Event, now: Time) -> Option<Self> {
        match event {
            Event::Started(_) => Some(self),
            Event::Token(token) if token.index == 0 => {
                self.tokens.push(token.id);
                self.first.get_or_insert(now);
                Some(self)
            }
            // The end is timed from the first token, whoever said it.
            Event::Finished(_) => Some(self),
            _ => None,
        }
    }

    /// An event with the time of the first token as the reader saw it.
    pub(super) fn timed(&self, mut event: Event, called: Time) -> Event {
        if let Event::Finished(finished) = &mut event
            && let Some(first) = self.first
        {
            let seen = first.saturating_sub(called);
            let told = &mut finished.timings.time_to_first_token;
            *told = (*told).min(seen);
        }
        event
    }

    /// Makes `request` one for the rest.
    pub(super) fn go_on(&self, request: &mut Request) {
        request.resume.extend_from_slice(&self.tokens);
        // They came with the beginning.
        request.prompt_logprobs = None;
    }
}
