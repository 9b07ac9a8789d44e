//! Making an index.

use std::sync::Arc;

use llmserve_core::Embedder;
use parking_lot::RwLock;

use super::super::error::IndexError;
use super::super::remembering::Remembering;
use super::super::threshold::Threshold;
use super::SemanticIndex;
use super::state::State;

/// 80,000 entries of 384 dimensions with short texts, roughly.
const DEFAULT_MAX_BYTES: usize = 96 << 20;
/// A text has seldom more near neighbours that differ. Most cost microseconds; where reading leaves
/// it to the embedder, what the two differ in is embedded.
const DEFAULT_CANDIDATES: usize = 8;
/// Reading as many takes a third of a millisecond and misses nothing: until then there is little to
/// save.
const DEFAULT_APPROXIMATE_FROM: usize = 10_000;

/// 5,000 texts of 384 dimensions, roughly.
const DEFAULT_REMEMBER: usize = 8 << 20;

/// The limits of a [`SemanticIndex`].
#[must_use = "an index is made by build()"]
pub struct SemanticIndexBuilder {
    embedder: Arc<dyn Embedder>,
    threshold: Threshold,
    candidates: usize,
    max_bytes: usize,
    approximate_from: usize,
    remember: usize,
}

impl SemanticIndexBuilder {
    pub(super) fn new(embedder: Arc<dyn Embedder>) -> Self {
        Self {
            threshold: Threshold::for_embedder(embedder.identity()),
            embedder,
            candidates: DEFAULT_CANDIDATES,
            max_bytes: DEFAULT_MAX_BYTES,
            approximate_from: DEFAULT_APPROXIMATE_FROM,
            remember: DEFAULT_REMEMBER,
        }
    }

    /// How near is near enough. Default: [`Threshold::for_embedder`].
    pub fn threshold(mut self, threshold: Threshold) -> Self {
        self.threshold = threshold;
        self
    }

    /// How many of the nearest texts are read before a lookup gives up. Default: 8.
    pub fn candidates(mut self, candidates: usize) -> Self {
        self.candidates = candidates;
        self
    }

    /// Most bytes held, over all namespaces: vectors, texts and bookkeeping. Default: 96 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// From how many vectors on a namespace is searched without reading all of them: one bit a
    /// dimension tells which may be among the nearest. Several times as fast where vectors lie in
    /// clusters; a few in a thousand of the nearest are missed. What is found has the same similarity. Takes `dimensions / 8 + 4` bytes a vector, from
    /// half that many on. `usize::MAX` always reads all. Default: 10,000.
    pub fn approximate_from(mut self, vectors: usize) -> Self {
        self.approximate_from = vectors;
        self
    }

    /// Bytes for vectors of texts that were embedded lately, so that what is asked again and again
    /// in other words than an entry's is embedded once. 0 remembers none. Default: 8 MiB.
    pub fn remember(mut self, bytes: usize) -> Self {
        self.remember = bytes;
        self
    }

    /// Checks the limits and makes the index. Memory is taken as texts come.
    ///
    /// # Errors
    /// A threshold that is no cosine, no candidates at all, or an embedder without dimensions.
    pub fn build(self) -> Result<SemanticIndex, IndexError> {
        for (name, given) in [
            ("threshold.texts", self.threshold.texts),
            ("threshold.words", self.threshold.words),
            ("threshold.gain", self.threshold.gain.unwrap_or(0.0)),
        ] {
            if !(-1.0..=1.0).contains(&given) {
                return Err(IndexError::Limit {
                    name,
                    given: f64::from(given),
                    reason: "a cosine is from -1 to 1",
                });
            }
        }
        let counts = [
            ("candidates", self.candidates, "nothing would ever be found"),
            (
                "embedder.dimensions",
                self.embedder.dimensions(),
                "a vector has at least one",
            ),
        ];
        for (name, given, reason) in counts {
            if given == 0 {
                return Err(IndexError::Limit {
                    name,
                    given: 0.0,
                    reason,
                });
            }
        }
        let state = State::new(
            self.embedder.dimensions(),
            self.max_bytes,
            self.approximate_from,
        );
        let embedder = match self.remember {
            0 => self.embedder,
            bytes => Arc::new(Remembering::new(self.embedder, bytes)),
        };
        Ok(SemanticIndex {
            embedder,
            threshold: self.threshold,
            candidates: self.candidates,
            state: RwLock::new(state),
        })
    }
}

impl std::fmt::Debug for SemanticIndexBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SemanticIndexBuilder")
            .field("embedder", &self.embedder.identity())
            .field("threshold", &self.threshold)
            .field("candidates", &self.candidates)
            .field("max_bytes", &self.max_bytes)
            .field("approximate_from", &self.approximate_from)
            .field("remember", &self.remember)
            .finish()
    }
}
