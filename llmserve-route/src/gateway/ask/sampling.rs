//! How tokens are picked, and what ends an answer.

use std::collections::BTreeMap;

use llmserve_core::{Request, TokenId};
use serde::Deserialize;

use super::super::fields::Fields;
use super::super::refusal::Refusal;

/// What a request that does not say has at OpenAI.
const TEMPERATURE: f32 = 1.0;

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number of 64 bits")]
enum Seed {
    Unsigned(u64),
    Signed(i64),
}

/// Takes the fields; ranges are the engine's to check, which knows its vocabulary.
pub(super) fn take(fields: &mut Fields, request: &mut Request) -> Result<(), Refusal> {
    let sampling = &mut request.sampling;
    sampling.temperature = fields.take("temperature")?.unwrap_or(TEMPERATURE);
    sampling.top_p = fields.take("top_p")?.unwrap_or(sampling.top_p);
    // vLLM: 0 or -1 keeps all.
    sampling.top_k = match fields.take::<i64>("top_k")? {
        None | Some(0 | -1) => None,
        Some(k) => Some(usize::try_from(k).map_err(|_| Refusal::field("top_k", "below -1"))?),
    };
    sampling.min_p = fields.take("min_p")?.unwrap_or(sampling.min_p);
    sampling.repetition_penalty = fields
        .take("repetition_penalty")?
        .unwrap_or(sampling.repetition_penalty);
    sampling.presence_penalty = fields.take("presence_penalty")?.unwrap_or(0.0);
    sampling.frequency_penalty = fields.take("frequency_penalty")?.unwrap_or(0.0);
    if let Some(bias) = fields.take::<BTreeMap<TokenId, f32>>("logit_bias")? {
        sampling.logit_bias = bias;
    }
    sampling.seed = fields.take("seed")?.map(|seed| match seed {
        Seed::Unsigned(seed) => seed,
        // OpenAI's are signed: any distinct number will do.
        Seed::Signed(seed) => seed.cast_unsigned(),
    });
    request.stop = match fields.take("stop")? {
        None => Vec::new(),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Many(stops)) => stops,
    };
    request.stop_tokens = fields.take("stop_token_ids")?.unwrap_or_default();
    request.min_tokens = fields.take("min_tokens")?.unwrap_or(0);
    request.ignore_eos = fields.take("ignore_eos")?.unwrap_or(false);
    request.skip_special_tokens = fields.take("skip_special_tokens")?.unwrap_or(true);
    Ok(())
}
