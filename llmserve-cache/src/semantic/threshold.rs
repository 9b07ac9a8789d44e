//! How near is near enough, by embedder.

/// What is near, for one embedder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// The least cosine of two texts that share an answer, and of the sentences in which they
    /// differ.
    pub texts: f32,
    /// The least cosine of the words, where one was put in another's place: "quit" for "exit".
    pub words: f32,
}

impl Threshold {
    /// What suits an embedder, by its [identity](llmserve_core::Embedder::identity). Chosen from two
    /// thirds of the published pairs; an embedder that is not known here gets the stricter of both
    /// values.
    pub fn for_embedder(identity: &str) -> Self {
        if identity.starts_with("hashed") {
            Self::HASHED
        } else if identity.contains("minilm") {
            Self::MINILM
        } else {
            Self::UNKNOWN
        }
    }

    /// Sentence encoders of the MiniLM family.
    const MINILM: Self = Self {
        texts: 0.8,
        words: 0.6,
    };
    /// Hashed n-grams, which know forms and not meanings.
    const HASHED: Self = Self {
        texts: 0.6,
        words: 0.6,
    };
    const UNKNOWN: Self = Self {
        texts: 0.9,
        words: 0.6,
    };
}
