//! OpenAI's API, as OpenAI documents it, and the events that all who speak it send.

use llmserve_core::{Error, FinishReason, Request, TokenId, TokenLogprobs};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::piece::{Part, Piece, Trouble, Used};
use super::super::sse::SseEvent;
use super::abilities::Abilities;
use super::body::common;

/// What stands for a logprob of minus infinity, or lies below it.
const IMPOSSIBLE: f64 = -9999.0;

pub(super) fn body(request: &Request, model: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut body = common(request, model, &Abilities::OPENAI)?;
    if let Some(tokens) = request.max_tokens {
        body.set("max_tokens", tokens)?;
    }
    Ok(body.into_vec())
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    prompt_token_ids: Option<Vec<TokenId>>,
    error: Option<Value>,
    object: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: usize,
    text: Option<String>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
    stop_reason: Option<Value>,
    finish_detail: Option<Value>,
    token_ids: Option<Vec<TokenId>>,
    prompt_token_ids: Option<Vec<TokenId>>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<usize>,
    completion_tokens: Option<usize>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<usize>,
}

/// Of completions, lists of the same length; of chats, and of llama.cpp, a list of objects.
#[derive(Deserialize)]
struct Logprobs {
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f64>>>,
    top_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    content: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    id: Option<TokenId>,
    logprob: Option<f64>,
    top_logprobs: Option<Vec<Token>>,
}

/// What an event says; `wanted` alternatives of logprobs were asked for.
pub(super) fn read(event: &SseEvent, wanted: Option<usize>) -> Result<Piece, Trouble> {
    if event.data.trim() == "[DONE]" {
        return Ok(Piece {
            done: true,
            ..Piece::default()
        });
    }
    let chunk: Chunk = serde_json::from_str(&event.data).map_err(|_| Trouble::Garbled)?;
    if let Some(error) = &chunk.error
        && !error.is_null()
    {
        return Err(said(error));
    }
    if chunk.object.as_deref() == Some("error") {
        // vLLM's, before it had OpenAI's shape.
        let whole: Value = serde_json::from_str(&event.data).map_err(|_| Trouble::Garbled)?;
        return Err(said(&whole));
    }
    let mut piece = Piece {
        prompt_ids: chunk.prompt_token_ids,
        ..Piece::default()
    };
    if let Some(usage) = chunk.usage {
        piece.used = Used {
            prompt: usage.prompt_tokens,
            completion: usage.completion_tokens,
            cached: usage
                .prompt_tokens_details
                .and_then(|details| details.cached_tokens),
        };
    }
    for choice in chunk.choices.unwrap_or_default() {
        piece
            .parts
            .push(part(choice, wanted, &mut piece.prompt_ids));
    }
    Ok(piece)
}

fn part(choice: Choice, wanted: Option<usize>, prompt: &mut Option<Vec<TokenId>>) -> Part {
    if choice.prompt_token_ids.is_some() {
        *prompt = choice.prompt_token_ids;
    }
    let delta = choice.delta.and_then(|delta| delta.content);
    let logprobs = match (choice.logprobs, wanted) {
        (Some(logprobs), Some(k)) => tokens(logprobs, k),
        _ => Vec::new(),
    };
    let ids = match choice.token_ids {
        Some(ids) => ids,
        None => logprobs.iter().map(|token| token.id).collect(),
    };
    let fits = ids.len() == logprobs.len();
    Part {
        index: choice.index,
        text: choice.text.or(delta).unwrap_or_default(),
        logprobs: if fits { logprobs } else { Vec::new() },
        finish: choice.finish_reason.map(|reason| {
            let detail = choice.finish_detail;
            let exact = detail.and_then(|value| serde_json::from_value(value).ok());
            exact.unwrap_or_else(|| finish(&reason, choice.stop_reason))
        }),
        ids,
    }
}

fn finish(reason: &str, stop: Option<Value>) -> FinishReason {
    match (reason, stop) {
        ("stop", Some(Value::String(text))) => FinishReason::StopString(text),
        ("stop", Some(Value::Number(id))) => match id.as_u64().map(TokenId::try_from) {
            Some(Ok(id)) => FinishReason::StopToken(id),
            _ => FinishReason::Stop,
        },
        // TGI's names beside OpenAI's.
        ("stop" | "eos_token" | "stop_sequence", _) => FinishReason::Stop,
        ("length", _) => FinishReason::Length,
        ("deadline", _) => FinishReason::Deadline,
        (other, _) => FinishReason::Other(other.chars().take(64).collect()),
    }
}

/// The tokens whose ids are told; none, if one is not.
fn tokens(logprobs: Logprobs, wanted: usize) -> Vec<TokenLogprobs> {
    let tokens: Option<Vec<TokenLogprobs>> = if let Some(content) = logprobs.content {
        let tokens = content.into_iter().map(|token| {
            let (id, logprob) = (token.known_id()?, float(token.logprob));
            let top = token.top_logprobs.unwrap_or_default().into_iter();
            let top = top.map(|other| Some((other.known_id()?, float(other.logprob))));
            let top = top.collect::<Option<Vec<_>>>()?;
            Some(ordered(id, logprob, top, wanted))
        });
        tokens.collect()
    } else {
        let mut own = logprobs.token_logprobs.unwrap_or_default().into_iter();
        let mut top = logprobs.top_logprobs.unwrap_or_default().into_iter();
        let tokens = logprobs.tokens.unwrap_or_default().into_iter().map(|name| {
            let (id, logprob) = (id_of(&name)?, float(own.next().flatten()));
            let top = top.next().flatten().unwrap_or_default().into_iter();
            let top = top.map(|(name, value)| Some((id_of(&name)?, float(value.as_f64()))));
            let top = top.collect::<Option<Vec<_>>>()?;
            Some(ordered(id, logprob, top, wanted))
        });
        tokens.collect()
    };
    tokens.unwrap_or_default()
}

impl Token {
    fn known_id(&self) -> Option<TokenId> {
        self.id.or_else(|| id_of(self.token.as_deref()?))
    }
}

/// The id in a name like `token_id:17`.
fn id_of(name: &str) -> Option<TokenId> {
    name.strip_prefix("token_id:")?.parse().ok()
}

fn float(logprob: Option<f64>) -> f32 {
    match logprob {
        Some(value) if value > IMPOSSIBLE => value as f32,
        _ => f32::NEG_INFINITY,
    }
}

/// Best first, equals by lower id, and no more than were asked for: some add the token itself.
fn ordered(
    id: TokenId,
    logprob: f32,
    mut top: Vec<(TokenId, f32)>,
    wanted: usize,
) -> TokenLogprobs {
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    top.truncate(wanted);
    TokenLogprobs { id, logprob, top }
}

/// An endpoint's error. Its words may repeat the prompt: only names and numbers are taken.
pub(in super::super) fn said(error: &Value) -> Trouble {
    let code = &error["code"];
    let number = code.as_u64().or_else(|| error["status"].as_u64());
    let status = number.and_then(|number| u16::try_from(number).ok());
    let name = [&error["type"], code, &error["param"]]
        .into_iter()
        .filter_map(Value::as_str)
        .filter(|name| is_name(name))
        .collect::<Vec<_>>()
        .join(", ");
    Trouble::Said {
        status: status.filter(|status| (400..600).contains(status)),
        name,
    }
}

/// Whether `text` is a name such as `context_length_exceeded`, and no sentence.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}
