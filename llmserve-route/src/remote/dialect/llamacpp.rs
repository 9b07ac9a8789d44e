//! llama.cpp's server: OpenAI's API with the sampling fields of its own.

use llmserve_core::{Error, Request};

use super::abilities::Abilities;
use super::body::common;

const ABILITIES: Abilities = Abilities {
    name: "llama.cpp's API",
    top_k: true,
    min_p: true,
    repetition_penalty: true,
    ignore_eos: true,
    logprobs: true,
    choices: false,
    unlimited: true,
    ..Abilities::OPENAI
};

pub(super) fn body(request: &Request, model: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut body = common(request, model, &ABILITIES)?;
    match request.max_tokens {
        Some(tokens) => body.set("max_tokens", tokens)?,
        // Until the context is full.
        None => body.set("max_tokens", -1)?,
    }
    let sampling = &request.sampling;
    // Its own defaults cut: what the request does not ask for is turned off.
    if sampling.top_k.is_none() {
        body.set("top_k", 0)?;
    }
    if sampling.min_p == 0.0 {
        body.set("min_p", 0.0)?;
    }
    if sampling.top_p == 1.0 {
        body.set("top_p", 1.0)?;
    }
    body.set("repeat_penalty", sampling.repetition_penalty)?;
    if request.ignore_eos {
        body.set("ignore_eos", true)?;
    }
    Ok(body.into_vec())
}
