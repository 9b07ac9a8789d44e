//! Making a memory store.

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Clock, SystemClock};

use super::MemoryStore;
use super::shelf::{ENTRY_OVERHEAD, Shelf};

/// Little beside a model's weights; a host that caches in earnest sets its own.
const DEFAULT_MAX_BYTES: usize = 64 << 20;

/// What is wrong with a store's limits.
///
/// ```
/// use llmserve_cache::{BuildError, MemoryStore};
/// let error = MemoryStore::builder().max_bytes(1).build().err();
/// assert!(matches!(error, Some(BuildError::MaxBytes { given: 1, .. })));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    #[error("ttl is 0, so nothing would ever be found; leave it out to keep answers")]
    ZeroTtl,
}

/// The limits of a [`MemoryStore`].
///
/// ```
/// use std::time::Duration;
/// use llmserve_cache::{MemoryStore, Store};
/// let store = MemoryStore::builder()
///     .max_bytes(256 << 20)
///     .ttl(Duration::from_secs(3_600))
///     .build()?;
/// assert!(store.max_entry_size() < 256 << 20);
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
#[must_use = "a store is made by build()"]
pub struct MemoryStoreBuilder {
    max_bytes: usize,
    ttl: Option<Duration>,
    clock: Arc<dyn Clock>,
}

impl MemoryStoreBuilder {
    pub(super) fn new() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_BYTES,
            ttl: None,
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// Most bytes held, keys and bookkeeping included. Default: 64 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long after it was stored an answer is forgotten, used or not. Default: never.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The time that the time to live is measured with. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the limits and makes the store. Memory is taken as answers come.
    ///
    /// # Errors
    /// [`BuildError`], naming the limit.
    pub fn build(self) -> Result<MemoryStore, BuildError> {
        if self.max_bytes <= ENTRY_OVERHEAD {
            return Err(BuildError::MaxBytes {
                given: self.max_bytes,
                least: ENTRY_OVERHEAD,
            });
        }
        if self.ttl == Some(Duration::ZERO) {
            return Err(BuildError::ZeroTtl);
        }
        Ok(self.make())
    }

    pub(super) fn make(self) -> MemoryStore {
        let shelf = Shelf::new(self.max_bytes, self.ttl);
        MemoryStore::from_parts(shelf, self.max_bytes, self.clock)
    }
}

impl std::fmt::Debug for MemoryStoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStoreBuilder")
            .field("max_bytes", &self.max_bytes)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
