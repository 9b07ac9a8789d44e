//! How endpoints differ that call themselves OpenAI-compatible, and one that does not.
//!
//! A dialect says what an endpoint can honour. What it cannot is an error before anything is sent:
//! an answer that silently is not what was asked for is worse than none.

mod abilities;
mod anthropic;
mod azure;
mod body;
mod llamacpp;
mod llmserve;
mod openai;
mod vllm;

use llmserve_core::{Error, Prompt, Request};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

pub(super) use openai::said;

use super::key::ApiKey;
use super::piece::{Piece, Trouble};
use super::sse::SseEvent;

/// What an endpoint speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// What OpenAI documents and no more: OpenAI, TGI, SGLang and most others. Text without token
    /// ids.
    #[default]
    OpenAi,
    /// vLLM: token ids, logprobs by id, its own sampling fields, constraints, tenants as
    /// `cache_salt`.
    Vllm,
    /// Our own gateway: everything a request can say but logits processors and
    /// logprobs of the prompt.
    Llmserve,
    /// llama.cpp's server.
    LlamaCpp,
    /// Azure OpenAI: the deployment in the path, the key in `api-key`.
    Azure {
        /// Its `api-version`, such as `2024-10-21`.
        api_version: String,
    },
    /// Anthropic's Messages: conversations only.
    Anthropic,
}

/// A request as it is sent.
pub(super) struct Call {
    /// Below the base URL, which ends without a slash; with its query.
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

impl Dialect {
    /// The call for `request`, of the endpoint's model `model`.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`]: what this dialect cannot honour.
    pub(super) fn call(&self, request: &Request, model: Option<&str>) -> Result<Call, Error> {
        let chat = matches!(request.prompt, Prompt::Messages(_));
        let path = if chat {
            "/chat/completions"
        } else {
            "/completions"
        };
        let (path, body) = match self {
            Dialect::OpenAi => (path.to_owned(), openai::body(request, model)?),
            Dialect::Vllm => (path.to_owned(), vllm::body(request, model)?),
            Dialect::Llmserve => (path.to_owned(), llmserve::body(request, model)?),
            Dialect::LlamaCpp => (path.to_owned(), llamacpp::body(request, model)?),
            Dialect::Azure { api_version } => (
                azure::path(path, model, api_version)?,
                openai::body(request, model)?,
            ),
            Dialect::Anthropic => (anthropic::PATH.to_owned(), anthropic::body(request, model)?),
        };
        Ok(Call { path, body })
    }

    /// What is added to the path of a base URL that has none.
    pub(super) fn default_path(&self) -> &'static str {
        match self {
            Dialect::Azure { .. } => "",
            _ => "/v1",
        }
    }

    /// The header that carries the key. None for a key that no header can carry.
    pub(super) fn authorise(&self, key: &ApiKey, headers: &mut HeaderMap) -> Option<()> {
        let (name, value) = match self {
            Dialect::Azure { .. } => ("api-key", key.reveal().to_owned()),
            Dialect::Anthropic => ("x-api-key", key.reveal().to_owned()),
            _ => ("authorization", format!("Bearer {}", key.reveal())),
        };
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
        Some(())
    }

    /// Headers of every call.
    pub(super) fn headers(&self, headers: &mut HeaderMap) {
        if matches!(self, Dialect::Anthropic) {
            let version = HeaderValue::from_static(anthropic::VERSION);
            headers.insert(HeaderName::from_static("anthropic-version"), version);
        }
    }

    /// What an event of the answer says. `wanted` is the number of alternatives of logprobs that
    /// were asked for.
    pub(super) fn read(&self, event: &SseEvent, wanted: Option<usize>) -> Result<Piece, Trouble> {
        match self {
            Dialect::Anthropic => anthropic::read(event),
            _ => openai::read(event, wanted),
        }
    }
}

/// A field of the request that this endpoint cannot honour.
fn unsupported(field: &'static str, dialect: &str) -> Error {
    Error::invalid_request(field, format!("an endpoint of {dialect} cannot honour it"))
}
