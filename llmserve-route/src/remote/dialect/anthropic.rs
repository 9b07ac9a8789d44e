//! Anthropic's Messages.

use llmserve_core::{Error, FinishReason, Message, Prompt, Request};
use serde::Deserialize;
use serde_json::Value;

use super::super::piece::{Part, Piece, Trouble, Used};
use super::super::sse::SseEvent;
use super::abilities::Abilities;
use super::body::Body;
use super::openai::said;
use super::unsupported;

pub(super) const PATH: &str = "/messages";

pub(super) const VERSION: &str = "2023-06-01";

const ABILITIES: Abilities = Abilities {
    name: "Anthropic's API",
    top_k: true,
    choices: false,
    ..Abilities::OPENAI
};

pub(super) fn body(request: &Request, model: Option<&str>) -> Result<Vec<u8>, Error> {
    ABILITIES.check(request)?;
    let sampling = &request.sampling;
    for (field, asked) in [
        ("seed", sampling.seed.is_some()),
        ("presence_penalty", sampling.presence_penalty != 0.0),
        ("frequency_penalty", sampling.frequency_penalty != 0.0),
        ("logit_bias", !sampling.logit_bias.is_empty()),
        ("constraint", request.constraint.is_some()),
    ] {
        if asked {
            return Err(unsupported(field, ABILITIES.name));
        }
    }
    let Prompt::Messages(messages) = &request.prompt else {
        return Err(unsupported(
            "prompt",
            "Anthropic's API, other than messages,",
        ));
    };
    let Some(max_tokens) = request.max_tokens else {
        return Err(unsupported("max_tokens", "Anthropic's API, if it is none,"));
    };
    let (system, said): (Vec<&Message>, Vec<&Message>) = messages
        .iter()
        .partition(|message| message.role == "system");
    let mut body = Body::new();
    if let Some(model) = model {
        body.set("model", model)?;
    }
    body.set("max_tokens", max_tokens)?;
    if !system.is_empty() {
        let text: Vec<&str> = system
            .iter()
            .map(|message| message.content.as_str())
            .collect();
        body.set("system", text.join("\n\n"))?;
    }
    body.set("messages", said)?;
    body.set("stream", true)?;
    body.set("temperature", sampling.temperature)?;
    if sampling.top_p != 1.0 {
        body.set("top_p", sampling.top_p)?;
    }
    if let Some(k) = sampling.top_k {
        body.set("top_k", k)?;
    }
    if !request.stop.is_empty() {
        body.set("stop_sequences", &request.stop)?;
    }
    Ok(body.into_vec())
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    message: Option<Opening>,
    delta: Option<Delta>,
    usage: Option<Usage>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Opening {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Delta {
    text: Option<String>,
    stop_reason: Option<String>,
    stop_sequence: Option<String>,
}

/// Prompt tokens that were read from the cache, or written to it, are not among `input_tokens`.
#[derive(Clone, Copy, Deserialize)]
struct Usage {
    input_tokens: Option<usize>,
    cache_read_input_tokens: Option<usize>,
    cache_creation_input_tokens: Option<usize>,
    output_tokens: Option<usize>,
}

impl From<Usage> for Used {
    fn from(usage: Usage) -> Self {
        let read = usage.cache_read_input_tokens.unwrap_or(0);
        let written = usage.cache_creation_input_tokens.unwrap_or(0);
        Used {
            prompt: usage
                .input_tokens
                .map(|input| input.saturating_add(read).saturating_add(written)),
            cached: usage.cache_read_input_tokens,
            completion: usage.output_tokens,
        }
    }
}

pub(super) fn read(event: &SseEvent) -> Result<Piece, Trouble> {
    let told: Told = serde_json::from_str(&event.data).map_err(|_| Trouble::Garbled)?;
    let opening = told.message.and_then(|message| message.usage);
    let mut piece = Piece {
        used: opening.or(told.usage).map(Used::from).unwrap_or_default(),
        done: told.kind == "message_stop",
        ..Piece::default()
    };
    match (told.kind.as_str(), told.delta) {
        ("error", _) => return Err(failed(&told.error)),
        ("content_block_delta", Some(delta)) => piece.parts.push(Part {
            text: delta.text.unwrap_or_default(),
            ..Part::default()
        }),
        ("message_delta", Some(delta)) => piece.parts.push(Part {
            finish: delta
                .stop_reason
                .map(|reason| finish(reason, delta.stop_sequence)),
            ..Part::default()
        }),
        // Pings, the beginnings and ends of blocks, and what is added later.
        _ => {}
    }
    Ok(piece)
}

fn finish(reason: String, sequence: Option<String>) -> FinishReason {
    match (reason.as_str(), sequence) {
        ("end_turn", _) => FinishReason::Stop,
        ("stop_sequence", Some(text)) => FinishReason::StopString(text),
        ("stop_sequence", None) => FinishReason::Stop,
        ("max_tokens", _) => FinishReason::Length,
        _ => FinishReason::Other(reason.chars().take(64).collect()),
    }
}

/// Errors in a stream have no status, but names that stand for one.
fn failed(error: &Value) -> Trouble {
    match said(error) {
        Trouble::Said { status: None, name } => Trouble::Said {
            status: match name.as_str() {
                "invalid_request_error" => Some(400),
                "rate_limit_error" => Some(429),
                "api_error" => Some(500),
                "overloaded_error" => Some(529),
                _ => None,
            },
            name,
        },
        other => other,
    }
}
