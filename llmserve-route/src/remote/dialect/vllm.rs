//! vLLM: OpenAI's API with its own fields beside it.

use llmserve_core::{Constraint, Error, Request};
use serde_json::json;

use super::abilities::Abilities;
use super::body::{Body, common};

pub(super) const ABILITIES: Abilities = Abilities {
    name: "vLLM's API",
    top_k: true,
    min_p: true,
    repetition_penalty: true,
    min_tokens: true,
    ignore_eos: true,
    stop_tokens: true,
    special_tokens: true,
    logprobs: true,
    choices: true,
    regex: true,
    choice: true,
    lark: true,
    resume: false,
    unlimited: true,
};

pub(super) fn body(request: &Request, model: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut body = shared(request, model, &ABILITIES)?;
    if let Some(tenant) = &request.tenant {
        // KV of prompts with different salts is never shared.
        body.set("cache_salt", tenant)?;
    }
    Ok(body.into_vec())
}

/// The fields that our gateway has from vLLM.
pub(super) fn shared(
    request: &Request,
    model: Option<&str>,
    abilities: &Abilities,
) -> Result<Body, Error> {
    let mut body = common(request, model, abilities)?;
    // null: until the context is full.
    body.set("max_tokens", request.max_tokens)?;
    body.set("return_token_ids", true)?;
    if request.logprobs.is_some() {
        body.set("return_tokens_as_token_ids", true)?;
    }
    let sampling = &request.sampling;
    if sampling.repetition_penalty != 1.0 {
        body.set("repetition_penalty", sampling.repetition_penalty)?;
    }
    if request.min_tokens != 0 {
        body.set("min_tokens", request.min_tokens)?;
    }
    if request.ignore_eos {
        body.set("ignore_eos", true)?;
    }
    if !request.stop_tokens.is_empty() {
        body.set("stop_token_ids", &request.stop_tokens)?;
    }
    if !request.skip_special_tokens {
        body.set("skip_special_tokens", false)?;
    }
    if request.priority != 0 {
        body.set("priority", request.priority)?;
    }
    match &request.constraint {
        None | Some(Constraint::JsonSchema(_)) => {}
        Some(Constraint::Regex(regex)) => {
            body.set("structured_outputs", json!({ "regex": regex }))?;
        }
        Some(Constraint::Choice(texts)) => {
            body.set("structured_outputs", json!({ "choice": texts }))?;
        }
        Some(Constraint::Lark(grammar)) => {
            body.set("structured_outputs", json!({ "grammar": grammar }))?;
        }
        Some(_) => return Err(super::unsupported("constraint", abilities.name)),
    }
    Ok(body)
}
