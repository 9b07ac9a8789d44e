//! Text to tokens and back.

use crate::ids::TokenId;
use serde::{Deserialize, Serialize};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// What the user said.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model answered.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// Standing instructions.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }
}

/// How a conversation is rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenderOptions {
    /// Whether the rendered text ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
        }
    }
}

/// A failure of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The text could not be encoded, or the ids not decoded.
    #[error("tokenizer: {0}")]
    Codec(String),
    /// The tokenizer has no chat template.
    #[error("the tokenizer has no chat template, so messages cannot be rendered")]
    NoTemplate,
    /// The chat template refused the conversation or is broken.
    #[error("chat template: {0}")]
    Template(String),
}

/// Text to tokens and back. Shared by threads.
pub trait Tokenizer: Send + Sync {
    /// The tokens of `text`; with `add_special`, framed as the tokenizer's post-processor frames
    /// a prompt (a leading BOS and the like).
    ///
    /// # Errors
    /// [`TokenizerError::Codec`].
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TokenizerError>;

    /// The text of `ids`; bytes that do not form a character become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::Codec`].
    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError>;

    /// A conversation as the model was trained to read it. The text carries its own special
    /// tokens, so it is encoded with `add_special` off.
    ///
    /// # Errors
    /// [`TokenizerError::NoTemplate`], [`TokenizerError::Template`].
    fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TokenizerError>;

    /// A seam: the first position at or after byte `from`, which is at least 1, where `text` may be
    /// cut. Both sides encoded on their own without `add_special` and put together are the tokens of
    /// the whole, whatever stands on either side. None where there is none, or none can be told.
    ///
    /// It lets parts that recur be encoded once. Most positions are no seam: tokens are made by
    /// merging what stands side by side.
    fn seam(&self, text: &str, from: usize) -> Option<usize> {
        let _ = (text, from);
        None
    }

    /// What `add_special` puts before and behind the tokens of a text, where that is the same for
    /// every text; none where it is not, or is not known.
    fn frame(&self) -> Option<(&[TokenId], &[TokenId])> {
        None
    }
}
