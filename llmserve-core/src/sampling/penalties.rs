//! Penalties for tokens already seen, counted as tokens come.
//!
//! Repetition looks at prompt and output, presence and frequency at the output alone: the rules
//! of the OpenAI API and of vLLM. A step costs what is new plus one touch for each *distinct*
//! token seen, never a walk over the context.

use std::collections::HashMap;

use super::params::{LogitsContext, Sampling};
use crate::ids::TokenId;

/// How far back a context is compared with what was counted. Drafts are shorter than this.
const LOOKBACK: usize = 64;

/// A token that was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) token: TokenId,
    in_prompt: bool,
    outputs: u32,
}

/// Tokens seen in one choice, and what they cost.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// What was seen, dense, so that applying it is one pass.
    seen: Vec<Seen>,
    /// Where in `seen` a token is.
    places: HashMap<TokenId, usize>,
    /// The output counted, to take tokens back from.
    output: Vec<TokenId>,
    /// Length of the prompt counted; none before the first context.
    prompt_len: Option<usize>,
}

impl Penalties {
    /// None when the request penalises nothing.
    pub(super) fn new(sampling: &Sampling) -> Option<Self> {
        let neutral = sampling.repetition_penalty == 1.0
            && sampling.presence_penalty == 0.0
            && sampling.frequency_penalty == 0.0;
        (!neutral).then(|| Self {
            repetition: sampling.repetition_penalty,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            seen: Vec::new(),
            places: HashMap::new(),
            output: Vec::new(),
            prompt_len: None,
        })
    }

    /// Brings the counts to `context`: takes back what is no longer there (rejected drafts), adds
    /// what is new. Contexts may differ from the last one in any of the 64 tokens before the end
    /// of the shorter, and in anything after it.
    pub(super) fn follow(&mut self, context: &LogitsContext<'_>) {
        let prompt_len = context.prompt_len.min(context.tokens.len());
        let (prompt, output) = context.tokens.split_at(prompt_len);
        if self.prompt_len != Some(prompt_len) {
            self.restart(prompt);
        }
        let common = self.output.len().min(output.len());
        let from = common.saturating_sub(LOOKBACK);
        let agreed = self.output[from..common]
            .iter()
            .zip(&output[from..common])
            .take_while(|(ours, theirs)| ours == theirs)
            .count();
        while self.output.len() > from + agreed {
            self.pop();
        }
        for &token in &output[from + agreed..] {
            self.push(token);
        }
    }

    /// Applies them. Tokens beyond the row and tokens ruled out are left alone.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for seen in &self.seen {
            let Some(logit) = logits.get_mut(seen.token as usize) else {
                continue;
            };
            if *logit == f32::NEG_INFINITY {
                continue;
            }
            let mut value = f64::from(*logit);
            let repetition = f64::from(self.repetition);
            value = if value > 0.0 {
                value / repetition
            } else {
                value * repetition
            };
            if seen.outputs > 0 {
                value -= f64::from(self.frequency) * f64::from(seen.outputs);
                value -= f64::from(self.presence);
            }
            // Extreme penalties must not turn a logit into +∞.
            *logit = (value as f32).min(f32::MAX);
        }
    }

    /// The tokens whose logits [`apply`](Self::apply) changes, each once.
    pub(super) fn touched(&self) -> &[Seen] {
        &self.seen
    }

    fn restart(&mut self, prompt: &[TokenId]) {
        self.seen.clear();
        self.places.clear();
        self.output.clear();
        self.prompt_len = Some(prompt.len());
        if self.repetition != 1.0 {
            for &token in prompt {
                self.entry(token).in_prompt = true;
            }
        }
    }

    fn push(&mut self, token: TokenId) {
        let entry = self.entry(token);
        entry.outputs = entry.outputs.saturating_add(1);
        self.output.push(token);
    }

    fn pop(&mut self) {
        let Some(token) = self.output.pop() else {
            return;
        };
        let Some(&place) = self.places.get(&token) else {
            return;
        };
        let entry = &mut self.seen[place];
        entry.outputs = entry.outputs.saturating_sub(1);
        if entry.outputs == 0 && !entry.in_prompt {
            self.seen.swap_remove(place);
            self.places.remove(&token);
            if let Some(moved) = self.seen.get(place) {
                self.places.insert(moved.token, place);
            }
        }
    }

    fn entry(&mut self, token: TokenId) -> &mut Seen {
        let place = *self.places.entry(token).or_insert_with(|| {
            self.seen.push(Seen {
                token,
                in_prompt: false,
                outputs: 0,
            });
            self.seen.len() - 1
        });
        &mut self.seen[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn penalised(repetition: f32, presence: f32, frequency: f32) -> Sampling {
        Sampling {
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            ..Sampling::default()
        }
    }

    /// Counts everything anew.
    fn naive(sampling: &Sampling, context: &LogitsContext<'_>, logits: &mut [f32]) {
        let output = &context.tokens[context.prompt_len..];
        for (id, logit) in (0..).zip(logits.iter_mut()) {
            let count = output.iter().filter(|&&t| t == id).count() as f64;
            let mut value = f64::from(*logit);
            if context.tokens.contains(&id) {
                let r = f64::from(sampling.repetition_penalty);
                value = if value > 0.0 { value / r } else { value * r };
            }
            value -= f64::from(sampling.frequency_penalty) * count;
            if count > 0.0 {
                value -= f64::from(sampling.presence_penalty);
            }
            *logit = value as f32;
        }
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_recount(
            repetition in prop_oneof![Just(1.0f32), 0.5f32..2.0],
            presence in -2.0f32..2.0,
            frequency in -2.0f32..2.0,
            prompt in prop::collection::vec(0u32..12, 0..20),
            steps in prop::collection::vec((0usize..6, prop::collection::vec(0u32..12, 0..6)), 1..30),
        ) {
            let sampling = penalised(repetition, presence, frequency);
            let Some(mut penalties) = Penalties::new(&sampling) else { return Ok(()) };
            let prompt_len = prompt.len();
            let mut tokens = prompt;
            for (back, new) in steps {
                // Rejected drafts go, others come: any tail may be replaced by any other.
                tokens.truncate(tokens.len().saturating_sub(back).max(prompt_len));
                tokens.extend(new);
                let context = LogitsContext::new(&tokens, prompt_len, 0);
                let row: Vec<f32> = (0..12u8).map(|i| f32::from(i) - 5.5).collect();
                let (mut ours, mut expected) = (row.clone(), row);
                penalties.follow(&context);
                penalties.apply(&mut ours);
                naive(&sampling, &context, &mut expected);
                prop_assert_eq!(ours, expected);
            }
        }
    }

    #[test]
    fn the_rules_are_those_of_vllm() {
        let tokens = [1, 2, 2, 3, 3, 3];
        let context = LogitsContext::new(&tokens, 2, 0);
        let mut penalties = Penalties::new(&penalised(2.0, 0.25, 0.5)).unwrap();
        penalties.follow(&context);
        let mut row = [4.0f32, 4.0, 4.0, -4.0];
        penalties.apply(&mut row);
        // Unseen; prompt only; once in the output; three times in the output.
        assert_eq!(row, [4.0, 2.0, 2.0 - 0.5 - 0.25, -8.0 - 1.5 - 0.25]);
        assert!(Penalties::new(&Sampling::default()).is_none());
    }

    #[test]
    fn extremes_stay_sound() {
        let tokens = [0, 1, 2, 9];
        let context = LogitsContext::new(&tokens, 0, 0);
        for sampling in [
            penalised(f32::MIN_POSITIVE, f32::MIN, f32::MIN),
            penalised(f32::MAX, f32::MAX, f32::MAX),
        ] {
            let mut penalties = Penalties::new(&sampling).unwrap();
            penalties.follow(&context);
            let mut row = [f32::MAX, f32::MIN, f32::NEG_INFINITY];
            penalties.apply(&mut row);
            assert!(row.iter().all(|l| *l <= f32::MAX), "{row:?}");
            assert_eq!(row[2], f32::NEG_INFINITY);
        }
    }

    #[test]
    fn a_context_that_makes_no_sense_does_no_harm() {
        let mut penalties = Penalties::new(&penalised(2.0, 0.0, 0.0)).unwrap();
        penalties.follow(&LogitsContext::new(&[1], 5, 0));
        penalties.follow(&LogitsContext::new(&[], 0, 0));
        penalties.follow(&LogitsContext::new(&[3, 3], 1, 0));
        let mut row = [1.0f32; 4];
        penalties.apply(&mut row);
        assert_eq!(row, [1.0, 1.0, 1.0, 0.5]);
    }
}
