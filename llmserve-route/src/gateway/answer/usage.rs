//! Tokens used, over all choices of all prompts.

use llmserve_core::Usage;
use serde::Serialize;

/// Adds up what choices used. A prompt counts once, however many choices continue it.
pub(super) struct Total {
    prompts: Vec<(usize, usize)>,
    completion: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct UsageJson {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: Details,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Details {
    cached_tokens: usize,
}

impl Total {
    pub(super) fn new(prompts: usize) -> Self {
        Self {
            prompts: vec![(0, 0); prompts],
            completion: 0,
        }
    }

    pub(super) fn add(&mut self, prompt: usize, usage: Usage) {
        if let Some((tokens, cached)) = self.prompts.get_mut(prompt) {
            *tokens = usage.prompt_tokens.max(*tokens);
            *cached = usage.cached_tokens.max(*cached);
        }
        self.completion = self.completion.saturating_add(usage.completion_tokens);
    }

    pub(super) fn to_json(&self) -> UsageJson {
        let sum = |of: fn(&(usize, usize)) -> usize| {
            self.prompts
                .iter()
                .fold(0, |sum: usize, prompt| sum.saturating_add(of(prompt)))
        };
        let prompt_tokens = sum(|prompt| prompt.0);
        UsageJson {
            prompt_tokens,
            completion_tokens: self.completion,
            total_tokens: prompt_tokens.saturating_add(self.completion),
            prompt_tokens_details: Details {
                cached_tokens: sum(|prompt| prompt.1),
            },
        }
    }
}
