//! Answers of a given form: what a grammar's parts must do for the engine.
//!
//! ```text
//!  Constraint ── GrammarCompiler ──► Grammar ── matcher() ──► GrammarMatcher, one for each choice
//!  (request)     intake threads     shared,                   mask ─► pick ─► accept ─► forced ─┐
//!                                   kept for the next            ▲                              │
//!                                                                └──────────────────────────────┘
//! ```

use std::sync::Arc;

use crate::ids::TokenId;
use crate::sampling::TokenMask;

/// The form an answer must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Constraint {
    /// A JSON value that the schema, itself JSON, accepts.
    JsonSchema(String),
    /// A text that the regular expression matches, all of it.
    Regex(String),
    /// One of these texts, letter by letter.
    Choice(Vec<String>),
    /// A text of the language of a grammar in Lark's notation.
    Lark(String),
}

impl Constraint {
    /// Bytes of its texts.
    pub fn text_len(&self) -> usize {
        match self {
            Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Lark(text) => {
                text.len()
            }
            Constraint::Choice(texts) => texts.iter().map(String::len).sum(),
        }
    }
}

/// Why there is no grammar, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The constraint is wrong, or says what the compiler does not know.
    #[error("the constraint cannot be compiled: {0}")]
    Compile(String),
    /// The constraint asks for more work or memory than one request may have.
    #[error("the constraint is too complex: {0}")]
    TooComplex(String),
    /// This model's tokenizer cannot be constrained.
    #[error("answers of this model cannot be constrained: {0}")]
    Unsupported(String),
    /// The matcher is broken, or was used against its contract.
    #[error("the grammar failed: {0}")]
    Broken(String),
}

/// Compiles constraints for one tokenizer. Called on the engine's intake threads.
///
/// Constraints come from strangers: time and memory of a compilation are bounded, and what exceeds
/// the bounds is an error.
pub trait GrammarCompiler: Send + Sync {
    /// The grammar of a constraint.
    ///
    /// # Errors
    /// [`GrammarError`], the request's alone.
    fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, GrammarError>;
}

/// A compiled constraint, kept by the engine for later requests with the same one.
pub trait Grammar: Send + Sync {
    /// A matcher at the beginning of an answer.
    ///
    /// # Errors
    /// [`GrammarError`], the request's alone.
    fn matcher(&self) -> Result<Box<dyn GrammarMatcher>, GrammarError>;
}

/// Follows one choice's tokens.
///
/// All that it says is a function of the grammar and of the tokens accepted: not of when, how
/// often or in which order it was asked, nor of tokens that were rolled back. Time and memory of a
/// call are bounded; what exceeds the bounds is an error, after which the matcher is not used.
pub trait GrammarMatcher: Send {
    /// Replaces `mask`, made for the model's vocabulary, by the tokens that may follow. The model's
    /// end tokens are among them where the answer may end here. Where the text that follows is
    /// forced, only the token that its tokenizer would write is in it.
    ///
    /// # Errors
    /// [`GrammarError`].
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), GrammarError>;

    /// Appends a token, one that [`mask`](Self::mask) had and that is no end token.
    ///
    /// # Errors
    /// [`GrammarError`], for a token that may not follow as well.
    fn accept(&mut self, token: TokenId) -> Result<(), GrammarError>;

    /// Takes back the last `tokens` that were accepted.
    ///
    /// # Errors
    /// [`GrammarError`], for more than were accepted as well.
    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarError>;

    /// Whether [`rollback`](Self::rollback) works. Without it nothing is drafted for the answer.
    fn can_roll_back(&self) -> bool {
        true
    }

    /// How many of `tokens` may follow, one after the other. Changes nothing. Cheaper than masks: a
    /// draft is cut to this many before it is verified. It may let pass what a mask would not, a
    /// forced text in other tokens than its tokenizer's.
    ///
    /// # Errors
    /// [`GrammarError`].
    fn valid_prefix(&mut self, tokens: &[TokenId]) -> Result<usize, GrammarError>;

    /// Appends the tokens that must follow to `out`, in order: those that masks would have as their
    /// only ones if each were accepted. Accepts none, and names no end token.
    ///
    /// # Errors
    /// [`GrammarError`].
    fn forced(&mut self, out: &mut Vec<TokenId>) -> Result<(), GrammarError>;

    /// Whether nothing but the end can follow.
    fn is_complete(&self) -> bool;
}
