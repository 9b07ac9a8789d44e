//! What comes back: events, and the answer they add up to.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::TokenId;
use serde::{Deserialize, Serialize};

/// One step of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The request was admitted and its prompt computed. Comes once, before all others.
    Started(Started),
    /// A token of one choice.
    Token(TokenEvent),
    /// Text of one choice whose tokens are not known: what a remote endpoint sends that names none.
    Text(TextEvent),
    /// One choice is complete. The last event of that choice.
    Finished(Finished),
}

impl Event {
    /// The text this event adds to its choice; empty for [`Event::Started`].
    pub fn text(&self) -> &str {
        match self {
            Event::Started(_) => "",
            Event::Token(token) => &token.text,
            Event::Text(text) => &text.text,
            Event::Finished(finished) => &finished.text,
        }
    }
}

/// The prompt as the model saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Started {
    /// The prompt's tokens.
    pub prompt_ids: Arc<[TokenId]>,
    /// Logprobs of the prompt's tokens from its second on, if asked for.
    pub prompt_logprobs: Option<Arc<[TokenLogprobs]>>,
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// Which choice, `0..n`.
    pub index: usize,
    /// The token.
    pub id: TokenId,
    /// Text that became certain with it. Empty while a character is incomplete or while the text
    /// may turn out to be part of a stop string.
    pub text: String,
    /// Its logprobs, if asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Generated text without its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextEvent {
    /// Which choice, `0..n`.
    pub index: usize,
    /// The text.
    pub text: String,
}

/// Natural-log probabilities of a token and its best alternatives, from the model's own logits
/// (before penalties, bias and temperature).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token.
    pub id: TokenId,
    /// Its logprob.
    pub logprob: f32,
    /// The most probable tokens, best first.
    pub top: Vec<(TokenId, f32)>,
}

/// The end of a choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Which choice, `0..n`.
    pub index: usize,
    /// Why.
    pub reason: FinishReason,
    /// Text held back until now.
    pub text: String,
    /// Tokens used by this choice.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
}

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model said so, with this end token.
    Eos(TokenId),
    /// A stop token of the request, with its id.
    StopToken(TokenId),
    /// A stop string of the request.
    StopString(String),
    /// The answer has the form that was asked for, and nothing can follow in that form.
    Complete,
    /// `max_tokens`, the model's context or the KV cache's size was reached.
    Length,
    /// The deadline passed.
    Deadline,
    /// It ended by itself; who says so does not say how.
    Stop,
    /// A remote endpoint's own reason, such as `tool_calls` or `content_filter`.
    Other(String),
}

impl FinishReason {
    /// The name OpenAI-compatible clients know: `stop`, `length`; or `deadline`, or a remote
    /// endpoint's own.
    pub fn as_str(&self) -> &str {
        match self {
            FinishReason::Eos(_)
            | FinishReason::StopToken(_)
            | FinishReason::StopString(_)
            | FinishReason::Complete
            | FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Deadline => "deadline",
            FinishReason::Other(reason) => reason,
        }
    }
}

/// Tokens used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens that were not computed because their KV was cached.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
}

/// How long a choice took, from the call of `generate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Until it was first admitted to a step.
    pub queue: Duration,
    /// Until its first token.
    pub time_to_first_token: Duration,
    /// Until its end.
    pub latency: Duration,
}

impl Timings {
    /// The same, counted from a call that came `earlier`: what a layer does that let a request
    /// wait.
    pub fn later(self, earlier: Duration) -> Self {
        Self {
            queue: self.queue.saturating_add(earlier),
            time_to_first_token: self.time_to_first_token.saturating_add(earlier),
            latency: self.latency.saturating_add(earlier),
        }
    }
}

/// A complete answer: the events of a stream, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// The prompt.
    pub started: Started,
    /// The choices, by index.
    pub choices: Vec<Choice>,
}

/// One choice of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Generated tokens, the end token included.
    pub ids: Vec<TokenId>,
    /// Generated text, without the stop string.
    pub text: String,
    /// Logprobs of each token, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended; none while it has not.
    pub reason: Option<FinishReason>,
    /// Tokens used.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
}

impl Response {
    /// Adds the next event of the stream.
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Started(started) => self.started = started,
            Event::Token(token) => {
                let choice = self.choice(token.index);
                choice.ids.push(token.id);
                choice.text.push_str(&token.text);
                choice.logprobs.extend(token.logprobs);
            }
            Event::Text(text) => self.choice(text.index).text.push_str(&text.text),
            Event::Finished(finished) => {
                let choice = self.choice(finished.index);
                choice.text.push_str(&finished.text);
                choice.reason = Some(finished.reason);
                choice.usage = finished.usage;
                choice.timings = finished.timings;
            }
        }
    }

    /// The text of the first choice.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }

    /// The tokens of the first choice.
    pub fn ids(&self) -> &[TokenId] {
        self.choices.first().map_or(&[], |choice| &choice.ids)
    }

    fn choice(&mut self, index: usize) -> &mut Choice {
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        &mut self.choices[index]
    }
}
