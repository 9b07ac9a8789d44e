//! What an index refuses.

/// Why an index did not take a text, or could not look for one.
///
/// ```
/// use llmserve_cache::semantic::IndexError;
/// let error = IndexError::Dimensions { given: 3, wanted: 384 };
/// assert_eq!(error.to_string(), "the vector has 3 dimensions, the index's embedder makes 384");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A vector of another length than the embedder's.
    #[error("the vector has {given} dimensions, the index's embedder makes {wanted}")]
    Dimensions {
        /// Dimensions of the vector.
        given: usize,
        /// [`Embedder::dimensions`](llmserve_core::Embedder::dimensions).
        wanted: usize,
    },
    /// A vector of zeros, or with a number that is not finite: it is near nothing.
    #[error("the vector has no direction: it is all zero, or not finite")]
    NoDirection,
    /// An entry that alone takes more than the whole index may.
    #[error("the entry takes {bytes} bytes, the index holds {limit}: raise max_bytes")]
    TooLarge {
        /// Bytes of the entry, its text and vector included.
        bytes: usize,
        /// [`SemanticIndexBuilder::max_bytes`](super::SemanticIndexBuilder::max_bytes).
        limit: usize,
    },
    /// A limit that makes no sense.
    #[error("{name} is {given}: {reason}")]
    Limit {
        /// The builder's method.
        name: &'static str,
        /// What was given.
        given: f64,
        /// What would be right.
        reason: &'static str,
    },
    /// The embedder failed on the words in which two texts differ.
    #[error(transparent)]
    Embedder(#[from] llmserve_core::Error),
}
