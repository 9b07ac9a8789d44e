//! OpenAI's objects: a whole answer and a piece of one differ in what their choices say.

use llmserve_core::{FinishReason, TokenId};
use serde::Serialize;

use super::logprobs::Logprobs;
use super::usage::UsageJson;

/// `text_completion`, `chat.completion` or `chat.completion.chunk`.
#[derive(Serialize)]
pub(super) struct Object<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<&'a [TokenId]>,
    /// None: no such field. `Some(None)`: null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<UsageJson>>,
}

impl Object<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        // Keys are text, and a Vec takes all that is written: nothing can fail.
        let _ = serde_json::to_writer(out, self);
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

#[derive(Serialize)]
pub(super) struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    said: Said<'a>,
    pub(super) logprobs: Option<Logprobs>,
    pub(super) finish_reason: Option<&'a str>,
    pub(super) stop_reason: Option<StopReason<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_ids: Option<&'a [TokenId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<&'a [TokenId]>,
    /// How exactly it ended, beside token ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finish_detail: Option<&'a FinishReason>,
}

impl<'a> Choice<'a> {
    pub(super) fn new(index: usize, said: Said<'a>) -> Self {
        Self {
            index,
            said,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
            prompt_token_ids: None,
            finish_detail: None,
        }
    }
}

/// What vLLM calls what ended an answer: the stop token or the stop string.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum StopReason<'a> {
    Token(TokenId),
    Text(&'a str),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said<'a> {
    Text(&'a str),
    Delta(Words<'a>),
    Message(Words<'a>),
}

#[derive(Serialize)]
pub(super) struct Words<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    /// None: no such field. `Some(None)`: null.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Option<&'a str>>,
}

impl<'a> Said<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Said::Text(text)
    }

    /// A conversation's next words.
    pub(super) fn delta(text: &'a str) -> Self {
        Said::Delta(Words {
            role: None,
            content: Some(text),
            refusal: None,
        })
    }

    /// Who begins to speak.
    pub(super) fn role() -> Self {
        Said::Delta(Words {
            role: Some("assistant"),
            content: Some(""),
            refusal: None,
        })
    }

    pub(super) fn nothing() -> Self {
        Said::Delta(Words {
            role: None,
            content: None,
            refusal: None,
        })
    }

    /// All that was said.
    pub(super) fn message(text: &'a str) -> Self {
        Said::Message(Words {
            role: Some("assistant"),
            content: Some(text),
            refusal: Some(None),
        })
    }
}
