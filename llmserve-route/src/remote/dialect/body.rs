//! The body of a call: a JSON object, field by field.

use std::collections::BTreeMap;

use llmserve_core::{Constraint, Error, Prompt, Request};
use serde::Serialize;
use serde_json::value::RawValue;

use super::abilities::Abilities;

/// JSON has no infinity: a bias beyond any logit.
const FORBIDDEN: f32 = -1e9;

/// A JSON object in the making. Fields stay in the order they were set in.
pub(super) struct Body(Vec<(&'static str, Box<RawValue>)>);

impl Body {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a field.
    ///
    /// # Errors
    /// A value that JSON cannot say.
    pub(super) fn set(&mut self, name: &'static str, value: impl Serialize) -> Result<(), Error> {
        let raw = serde_json::value::to_raw_value(&value)
            .map_err(|error| Error::invalid_request(name, error.to_string()))?;
        self.0.push((name, raw));
        Ok(())
    }

    pub(super) fn into_vec(self) -> Vec<u8> {
        let mut out = vec![b'{'];
        for (at, (name, value)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value.get().as_bytes());
        }
        out.push(b'}');
        out
    }
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    json_schema: Schema<'a>,
}

#[derive(Serialize)]
struct Schema<'a> {
    name: &'static str,
    schema: &'a RawValue,
    strict: bool,
}

/// What all dialects of OpenAI's API have in common, once `abilities` has allowed `request`.
pub(super) fn common(
    request: &Request,
    model: Option<&str>,
    abilities: &Abilities,
) -> Result<Body, Error> {
    abilities.check(request)?;
    let mut body = Body::new();
    if let Some(model) = model {
        body.set("model", model)?;
    }
    let chat = match &request.prompt {
        Prompt::Text(text) => body.set("prompt", text).map(|()| false),
        Prompt::Tokens(ids) => body.set("prompt", ids).map(|()| false),
        Prompt::Messages(messages) => body.set("messages", messages).map(|()| true),
        _ => Err(Error::invalid_request("prompt", "of an unknown kind")),
    }?;
    body.set("stream", true)?;
    body.set("stream_options", BTreeMap::from([("include_usage", true)]))?;
    let sampling = &request.sampling;
    body.set("temperature", sampling.temperature)?;
    if sampling.top_p != 1.0 {
        body.set("top_p", sampling.top_p)?;
    }
    if let Some(k) = sampling.top_k {
        body.set("top_k", k)?;
    }
    if sampling.min_p != 0.0 {
        body.set("min_p", sampling.min_p)?;
    }
    if sampling.presence_penalty != 0.0 {
        body.set("presence_penalty", sampling.presence_penalty)?;
    }
    if sampling.frequency_penalty != 0.0 {
        body.set("frequency_penalty", sampling.frequency_penalty)?;
    }
    if !sampling.logit_bias.is_empty() {
        let bias = sampling.logit_bias.iter();
        let bias: BTreeMap<u32, f32> = bias.map(|(id, bias)| (*id, bias.max(FORBIDDEN))).collect();
        body.set("logit_bias", bias)?;
    }
    if let Some(seed) = sampling.seed {
        // Most endpoints keep it in 64 bits with a sign.
        body.set("seed", seed.cast_signed())?;
    }
    if request.n != 1 {
        body.set("n", request.n)?;
    }
    if !request.stop.is_empty() {
        body.set("stop", &request.stop)?;
    }
    match (chat, request.logprobs) {
        (_, None) => {}
        (false, Some(k)) => body.set("logprobs", k)?,
        (true, Some(k)) => {
            body.set("logprobs", true)?;
            body.set("top_logprobs", k)?;
        }
    }
    if let Some(Constraint::JsonSchema(schema)) = &request.constraint {
        let schema: &RawValue = serde_json::from_str(schema).map_err(|error| {
            Error::invalid_request("constraint", format!("the schema is no JSON: {error}"))
        })?;
        body.set(
            "response_format",
            Format {
                kind: "json_schema",
                json_schema: Schema {
                    name: "answer",
                    schema,
                    strict: true,
                },
            },
        )?;
    }
    Ok(body)
}
