//! What a cache of models holds and has done.

use std::time::Duration;

/// What a [`ModelCache`](super::ModelCache) holds and has done, as one snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ModelCacheStats {
    /// Bytes there are for models.
    pub budget: u64,
    /// Bytes that models take, those included that are being loaded or unloaded.
    pub bytes: u64,
    /// Requests that wait for their model.
    pub waiting: usize,
    /// Requests that found their model loaded.
    pub hits: u64,
    /// Requests that had to wait for it.
    pub waits: u64,
    /// Requests refused: because too many waited, or the model could not be loaded.
    pub refused: u64,
    /// Requests that went away, or whose time was up, while they waited.
    pub gave_up: u64,
    /// Loads that succeeded.
    pub loads: u64,
    /// Loads and estimates that failed.
    pub failures: u64,
    /// Models unloaded for want of room.
    pub evictions: u64,
    /// Every model that the cache has heard of and not forgotten, by name.
    pub models: Vec<ModelStats>,
}

impl ModelCacheStats {
    /// The model of this name.
    pub fn model(&self, name: &str) -> Option<&ModelStats> {
        self.models.iter().find(|model| model.name == name)
    }
}

/// One model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelStats {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: ModelState,
    /// Bytes it takes or, where it is not loaded, would take. None until somebody asked.
    pub bytes: Option<u64>,
    /// Requests that wait for it.
    pub waiting: usize,
    /// Requests it has not finished.
    pub in_use: usize,
    /// Whether it is kept whatever happens.
    pub pinned: bool,
    /// How often it was asked for, those of long ago counting less.
    pub popularity: f64,
    /// How long its last load took.
    pub load_time: Option<Duration>,
}

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelState {
    /// Not in memory.
    Absent,
    /// On its way there.
    Loading {
        /// What is done, from 0 to 1; none until the loader says.
        progress: Option<f64>,
    },
    /// In memory.
    Loaded,
    /// In memory, and on its way out: it finishes what it has and gets nothing new.
    Closing,
}
