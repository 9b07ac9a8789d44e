//! Making a tokenizer that remembers.

use std::sync::Arc;

use llmserve_core::{GuardedRecorder, NoopRecorder, Recorder, Tokenizer};

use super::CachingTokenizer;
use super::pieces::{OVERHEAD, Pieces};
use super::stats::Counters;
use crate::error::BuildError;

/// Some megabytes of text.
const DEFAULT_MAX_BYTES: usize = 8 << 20;
/// Short enough that little is encoded again where texts part, long enough that looking a piece up
/// is nothing beside encoding it.
const DEFAULT_CHUNK: usize = 512;

/// The limits of a [`CachingTokenizer`].
#[must_use = "a tokenizer is made by build()"]
pub struct CachingTokenizerBuilder {
    inner: Arc<dyn Tokenizer>,
    max_bytes: usize,
    chunk: usize,
    recorder: Arc<dyn Recorder>,
}

impl CachingTokenizerBuilder {
    pub(super) fn new(inner: Arc<dyn Tokenizer>) -> Self {
        Self {
            inner,
            max_bytes: DEFAULT_MAX_BYTES,
            chunk: DEFAULT_CHUNK,
            recorder: Arc::new(NoopRecorder),
        }
    }

    /// Most bytes held: texts, their tokens and bookkeeping. Default: 8 MiB, taken as texts come.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Least bytes of a piece; it ends at the first seam from there. Default: 512.
    pub fn chunk_bytes(mut self, bytes: usize) -> Self {
        self.chunk = bytes;
        self
    }

    /// Where metrics go, as `llmserve_cache_*{level="tokens"}`. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Checks the limits and makes the tokenizer.
    ///
    /// # Errors
    /// [`BuildError::TokenBytes`], [`BuildError::ChunkBytes`].
    pub fn build(self) -> Result<CachingTokenizer, BuildError> {
        if self.chunk == 0 {
            return Err(BuildError::ChunkBytes);
        }
        let least = self.chunk.saturating_add(OVERHEAD);
        if self.max_bytes <= least {
            return Err(BuildError::TokenBytes {
                given: self.max_bytes,
                least,
            });
        }
        Ok(CachingTokenizer {
            inner: self.inner,
            chunk: self.chunk,
            pieces: Pieces::new(self.max_bytes),
            counters: Counters::new(&GuardedRecorder::new(self.recorder)),
        })
    }
}

impl std::fmt::Debug for CachingTokenizerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachingTokenizerBuilder")
            .field("max_bytes", &self.max_bytes)
            .field("chunk_bytes", &self.chunk)
            .finish_non_exhaustive()
    }
}
