//! Making a memory store.

use std::sync::Arc;

use llmserve_core::{Clock, SystemClock};

use super::{ENTRY_OVERHEAD, MemoryStore};
use crate::error::BuildError;

/// Little beside a model's weights; a host that caches in earnest sets its own.
const DEFAULT_MAX_BYTES: usize = 64 << 20;

/// The limits of a [`MemoryStore`].
///
/// ```
/// use llmserve_cache::{MemoryStore, Store};
/// let store = MemoryStore::builder().max_bytes(256 << 20).build()?;
/// assert!(store.max_entry_size() < 256 << 20);
/// # Ok::<(), llmserve_cache::BuildError>(())
/// ```
#[must_use = "a store is made by build()"]
pub struct MemoryStoreBuilder {
    max_bytes: usize,
    clock: Arc<dyn Clock>,
}

impl MemoryStoreBuilder {
    pub(super) fn new() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_BYTES,
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// Most bytes held, keys and bookkeeping included. Default: 64 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The time that entries age by. Default: [`SystemClock`].
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
        Ok(self.make())
    }

    pub(super) fn make(self) -> MemoryStore {
        MemoryStore::from_parts(self.max_bytes, self.clock)
    }
}

impl std::fmt::Debug for MemoryStoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStoreBuilder")
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}
