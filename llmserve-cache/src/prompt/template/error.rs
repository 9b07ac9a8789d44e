//! What a template refuses.

/// Why a template cannot be compiled or filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// There is nothing in it.
    #[error("the template has no message and no text")]
    Empty,
    /// `{{` without `}}`.
    #[error(
        "`{{{{` at byte {at} of {place} is never closed; write `\\{{{{` where no slot is meant"
    )]
    Unclosed {
        /// Where it opens.
        at: usize,
        /// In which message, or the text.
        place: String,
    },
    /// Not a name.
    #[error(
        "`{name}` at byte {at} of {place} is no name of a slot: letters, digits and `_`, not a digit first; write `\\{{{{` where no slot is meant"
    )]
    SlotName {
        /// What stands between the braces.
        name: String,
        /// Where it opens.
        at: usize,
        /// In which message, or the text.
        place: String,
    },
    /// A slot without a value.
    #[error("the template's slot `{slot}` has no value")]
    Missing {
        /// Which.
        slot: String,
    },
    /// A value without a slot.
    #[error("the template has no slot `{slot}`; it has: {known}")]
    Unknown {
        /// Which was given.
        slot: String,
        /// Those there are.
        known: String,
    },
    /// A slot with two values.
    #[error("the template's slot `{slot}` was given two values")]
    Twice {
        /// Which.
        slot: String,
    },
    /// A value has a text in it that values must not have.
    #[error(
        "the value of slot `{slot}` contains `{text}`, which the model would not take for text"
    )]
    Refused {
        /// Which.
        slot: String,
        /// What must not be in it.
        text: String,
    },
}
