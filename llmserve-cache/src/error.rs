//! What a builder refuses.

use std::time::Duration;

/// What is wrong with the settings of a store, a layer or a tokenizer.
///
/// ```
/// use llmserve_cache::{BuildError, MemoryStore};
/// let error = MemoryStore::builder().max_bytes(1).build().err();
/// assert!(matches!(error, Some(BuildError::MaxBytes { given: 1, .. })));
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Not even an empty answer would fit.
    #[error("max_bytes {given} holds no answer: an entry takes more than {least} bytes")]
    MaxBytes {
        /// What was asked for.
        given: usize,
        /// What an entry takes before its content.
        least: usize,
    },
    /// Every answer would be forgotten at once.
    #[error(
        "ttl {0:?} is less than a millisecond, so nothing would be found again; leave it out to keep answers"
    )]
    Ttl(Duration),
    /// Not a share of the time to live.
    #[error("ttl_jitter {0} is not from 0 to below 1: it is the largest share taken off the ttl")]
    TtlJitter(f64),
    /// Not even one piece of a text would fit.
    #[error("max_bytes {given} holds no piece of a text: one takes more than {least} bytes")]
    TokenBytes {
        /// What was asked for.
        given: usize,
        /// What a piece of one chunk takes without its tokens.
        least: usize,
    },
    /// Texts would be cut everywhere.
    #[error(
        "chunk_bytes is 0: a piece of a text has at least 1 byte, and some hundreds are of use"
    )]
    ChunkBytes,
    /// No question would ever be compared, or too many wait.
    #[error("the semantic level's queue takes 1 to 1,048,576 questions that wait for the embedder")]
    SemanticQueue,
    /// A setting below what makes sense.
    #[error("{field} is {given}, it takes at least {least}")]
    TooSmall {
        /// Which setting.
        field: &'static str,
        /// What was asked for.
        given: u64,
        /// The least it takes.
        least: u64,
    },
}
