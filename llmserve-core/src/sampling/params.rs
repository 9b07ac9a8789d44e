//! What a request may ask of the sampler.

use std::collections::BTreeMap;

use super::mask::TokenMask;
use crate::error::Error;
use crate::ids::TokenId;
use serde::{Deserialize, Serialize};

/// How tokens are picked. The default is greedy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Sampling {
    /// 0 is greedy: the best logit, ties to the lowest id. Otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the smallest set of most probable tokens whose probability reaches this; in (0, 1].
    pub top_p: f32,
    /// Keep this many most probable tokens. None keeps all.
    pub top_k: Option<usize>,
    /// Keep tokens at least this fraction as probable as the best; in [0, 1].
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output;
    /// 1 changes nothing (Keskar et al., CTRL).
    pub repetition_penalty: f32,
    /// Subtracted once from tokens seen in the output.
    pub presence_penalty: f32,
    /// Subtracted from tokens seen in the output, once for each time.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens; negative infinity forbids one.
    pub logit_bias: BTreeMap<TokenId, f32>,
    /// The request's noise. None: the engine draws one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: None,
        }
    }
}

impl Sampling {
    /// Whether the best token is always picked.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every field against its range and the vocabulary.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] naming the field, its value and its range.
    pub fn validate(&self, vocab_size: usize) -> Result<(), Error> {
        let check = |field, value: f32, ok: bool, range: &str| {
            if ok {
                Ok(())
            } else {
                Err(Error::invalid_request(
                    field,
                    format!("{value} is not {range}"),
                ))
            }
        };
        let Self {
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            ..
        } = *self;
        check(
            "temperature",
            temperature,
            temperature.is_finite() && temperature >= 0.0,
            "a finite number of at least 0",
        )?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "in (0, 1]")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "in [0, 1]")?;
        check(
            "repetition_penalty",
            repetition_penalty,
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
            "a finite number above 0",
        )?;
        for (field, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            check(field, value, value.is_finite(), "finite")?;
        }
        if self.top_k == Some(0) {
            return Err(Error::invalid_request(
                "top_k",
                "0 keeps no token; leave it out to keep all",
            ));
        }
        for (&token, &bias) in &self.logit_bias {
            if token as usize >= vocab_size {
                return Err(Error::invalid_request(
                    "logit_bias",
                    format!("token {token} is outside the vocabulary of {vocab_size}"),
                ));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(Error::invalid_request(
                    "logit_bias",
                    format!("{bias} for token {token}"),
                ));
            }
        }
        Ok(())
    }
}

/// Where a row of logits stands in its request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LogitsContext<'a> {
    /// Prompt and generated tokens so far.
    pub tokens: &'a [TokenId],
    /// How many of them are the prompt.
    pub prompt_len: usize,
    /// Which choice.
    pub choice: usize,
    /// What may follow, where a grammar says so; none allows all. No processor brings back what is
    /// ruled out.
    pub allowed: Option<&'a TokenMask>,
}

impl<'a> LogitsContext<'a> {
    /// A context of `tokens`, the first `prompt_len` of which are the prompt.
    pub fn new(tokens: &'a [TokenId], prompt_len: usize, choice: usize) -> Self {
        Self {
            tokens,
            prompt_len,
            choice,
            allowed: None,
        }
    }

    /// The same, with tokens of `mask` alone allowed to follow.
    pub fn allowed(mut self, mask: Option<&'a TokenMask>) -> Self {
        self.allowed = mask;
        self
    }
}

/// A plug-in that changes logits before a token is picked.
///
/// Called on the engine's thread: quick, and a pure function of its arguments, so that a
/// preempted or speculated request repeats itself. A panic ends its request alone.
///
/// ```
/// use llmserve_core::{LogitsContext, LogitsProcessor};
/// /// Never says the same token twice in a row.
/// struct NoEcho;
/// impl LogitsProcessor for NoEcho {
///     fn process(&self, context: &LogitsContext<'_>, logits: &mut [f32]) {
///         if let Some(&last) = context.tokens.last() {
///             logits[last as usize] = f32::NEG_INFINITY;
///         }
///     }
/// }
/// ```
pub trait LogitsProcessor: Send + Sync {
    /// Changes `logits`, one for each token of the vocabulary.
    fn process(&self, context: &LogitsContext<'_>, logits: &mut [f32]);
}
