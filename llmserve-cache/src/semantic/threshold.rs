//! How near is near enough, by embedder.

/// How far below [`Threshold::texts`] two texts may be.
const LEEWAY: f32 = 0.1;
/// The most of the distance that may go with their own words there: half as much must come.
pub(super) const HOLDS_TOGETHER: f32 = -0.5;

/// What is near, for one embedder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// The least cosine of two texts that share an answer, and of the sentences in which they
    /// differ. With `gain`, two texts up to 0.1 below share one too where their words of their own
    /// hold them together: without those they are half again as far from each other.
    pub texts: f32,
    /// The least cosine of the words that each text has and the other has not: "wear" and "dress".
    pub words: f32,
    /// For embedders that know what words mean. Words that each text has and the other has not, and
    /// that are not as near as `words`, are taken out of both: the most of the distance between the
    /// texts (one less their cosine) that may go with them. Where more goes, they are what sets the
    /// texts apart; two that say the same in other words lose about as much of what they share. Where
    /// reading doubts that the words say the same, none may go, and below `texts` the distance must
    /// grow. None: reading alone decides.
    pub gain: Option<f32>,
}

impl Threshold {
    /// What suits an embedder, by its [identity](llmserve_core::Embedder::identity). Chosen from the
    /// published pairs, for `HashedNgrams` and for all-MiniLM-L6-v2, whose value all
    /// sentence encoders of the BERT family get. Cosines of another encoder may lie elsewhere:
    /// measure it, as `examples/semantic` does. What is not known at all gets the strictest values.
    ///
    /// ```
    /// use llmserve_cache::HashedNgrams;
    /// use llmserve_cache::semantic::Threshold;
    /// use llmserve_core::Embedder;
    ///
    /// let hashed = Threshold::for_embedder(HashedNgrams::default().identity());
    /// assert!(hashed.texts < Threshold::for_embedder("somebody-elses").texts);
    /// ```
    pub fn for_embedder(identity: &str) -> Self {
        if identity.starts_with("hashed-ngram-") {
            Self::HASHED
        } else if identity.starts_with("bert-") {
            Self::SENTENCES
        } else {
            Self::UNKNOWN
        }
    }

    /// The least cosine of two texts that are looked at.
    pub(super) fn least(&self) -> f32 {
        match self.gain {
            Some(_) => self.texts - LEEWAY,
            None => self.texts,
        }
    }

    /// At 0.8 a third of what strangers called the same is lost; below this more that is not the same
    /// hits than that is.
    const SENTENCES: Self = Self {
        texts: 0.75,
        words: 0.7,
        gain: Some(0.4),
    };
    /// N-grams tell forms and not meanings, so a paraphrase may be far, and reading decides.
    const HASHED: Self = Self {
        texts: 0.4,
        words: 0.7,
        gain: None,
    };
    const UNKNOWN: Self = Self {
        texts: 0.9,
        words: 0.7,
        gain: None,
    };
}
