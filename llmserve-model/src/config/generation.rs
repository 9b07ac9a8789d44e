//! `generation_config.json`: what ends an answer, and the sampling its makers suggest.

use llmserve_core::{Sampling, TokenId};
use serde_json::Value;

use crate::config::fields::Fields;
use crate::config::limit;
use crate::error::LoadError;

/// What a model's makers suggest for generating with it.
///
/// The end-of-text tokens are merged into [`crate::DecoderConfig::eos`]. The sampling parameters
/// are a suggestion: nothing applies them unless the host asks for [`GenerationConfig::sampling`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// Tokens that end an answer.
    pub eos: Vec<TokenId>,
    /// The token that begins a text.
    pub bos: Option<TokenId>,
    /// Whether to sample at all. Otherwise the most probable token is picked.
    pub do_sample: bool,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keep the smallest set of tokens that is this probable.
    pub top_p: Option<f32>,
    /// Keep this many tokens.
    pub top_k: Option<usize>,
    /// Keep tokens at least this fraction as probable as the best.
    pub min_p: Option<f32>,
    /// Penalty on tokens seen before; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    pub(super) fn from_fields(fields: &Fields) -> Result<Self, LoadError> {
        let number = |name: &str, fits: fn(f32) -> bool, expected: &str| match fields
            .opt_number(name)?
            .map(|x| x as f32)
        {
            Some(x) if !fits(x) => Err(fields.wrong(name, expected)),
            x => Ok(x),
        };
        Ok(Self {
            eos: token_ids(fields, "eos_token_id")?,
            bos: token_ids(fields, "bos_token_id")?.first().copied(),
            do_sample: fields.opt_bool("do_sample")?.unwrap_or(false),
            temperature: number(
                "temperature",
                |x| x.is_finite() && x >= 0.0,
                "a number of at least 0",
            )?,
            top_p: number("top_p", |x| x > 0.0 && x <= 1.0, "a number in (0, 1]")?,
            // 0 is `transformers`' way to say "all".
            top_k: match fields.get("top_k").and_then(Value::as_u64) {
                Some(0) => None,
                _ => fields.opt_size("top_k", usize::MAX)?,
            },
            min_p: number("min_p", |x| (0.0..=1.0).contains(&x), "a number in [0, 1]")?,
            repetition_penalty: number(
                "repetition_penalty",
                |x| x.is_finite() && x > 0.0,
                "a number above 0",
            )?,
        })
    }

    /// The suggestion as sampling parameters: greedy unless `do_sample`, and nothing that the file
    /// does not name.
    ///
    /// ```
    /// use llmserve_model::GenerationConfig;
    /// assert!(GenerationConfig::default().sampling().is_greedy());
    /// ```
    pub fn sampling(&self) -> Sampling {
        let mut sampling = Sampling::default();
        if self.do_sample {
            sampling.temperature = self.temperature.unwrap_or(1.0);
            sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
            sampling.top_k = self.top_k;
            sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        }
        sampling.repetition_penalty = self
            .repetition_penalty
            .unwrap_or(sampling.repetition_penalty);
        sampling
    }
}

/// One token id or a list of at most [`limit::TOKEN_IDS`], without repeats; empty when absent.
pub(super) fn token_ids(fields: &Fields, name: &str) -> Result<Vec<TokenId>, LoadError> {
    let values = match fields.get(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    if values.len() > limit::TOKEN_IDS {
        return Err(LoadError::config(
            fields.path(name),
            format!(
                "{} token ids, expected at most {}",
                values.len(),
                limit::TOKEN_IDS
            ),
        ));
    }
    let mut ids = Vec::with_capacity(values.len());
    for value in values {
        let id = value
            .as_u64()
            .and_then(|id| TokenId::try_from(id).ok())
            .ok_or_else(|| fields.wrong(name, "a token id or a list of them"))?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}
