//! What a prompt layer refuses.

use super::super::template::TemplateError;

/// Why a name gives no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// Nothing was registered under it.
    #[error("no {what} is registered as `{name}`")]
    UnknownName {
        /// `"prefix"` or `"template"`.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// What is registered has a template's slots, or one has none for a value.
    #[error("template `{name}`: {error}")]
    Template {
        /// Which.
        name: String,
        /// What is wrong.
        error: TemplateError,
    },
    /// A text cannot go on as a conversation, nor tokens as a text.
    #[error("prefix `{name}` is {prefix}, so what follows cannot be {rest}")]
    Kind {
        /// Which.
        name: String,
        /// What it is.
        prefix: &'static str,
        /// What was to follow.
        rest: &'static str,
    },
    /// Nothing would be kept.
    #[error("prefix `{name}` is empty: every prompt begins with nothing")]
    Empty {
        /// Which.
        name: String,
    },
}
