//! Putting a cache of models together.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use llmserve_core::{Clock, Error, GuardedRecorder, Loader, NoopRecorder, Recorder, SystemClock};

use super::cache::ModelCache;
use super::instruments::Instruments;
use super::keeper::Shared;
use super::state::Limits;

/// What is wrong with the parts of a [`ModelCache`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelCacheError {
    /// Nothing could ever be loaded.
    #[error("the budget is 0 bytes: give it what models may take")]
    NoBudget,
    /// Nothing would ever be loaded.
    #[error("no load may run; at least 1 is needed")]
    NoLoads,
    /// Nothing would count as asked for.
    #[error("the half-life of popularity is 0: give it the time in which an interest halves")]
    NoHalfLife,
    /// A model named to the builder cannot be served.
    #[error(transparent)]
    Model(#[from] Error),
    /// The system gives no thread to keep models with.
    #[error("no thread for the cache: {0}")]
    Thread(#[from] std::io::Error),
}

/// The parts of a [`ModelCache`]; every one has a default.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use llmserve_cache::models::{ModelCache, ModelCacheError};
/// # use llmserve_core::{Error, LoadProgress, Loaded, Loader};
/// # struct Nothing;
/// # impl Loader for Nothing {
/// #     fn names(&self) -> Vec<String> {
/// #         vec!["small".to_owned()]
/// #     }
/// #     fn estimate(&self, _model: &str) -> Result<u64, Error> {
/// #         Ok(1)
/// #     }
/// #     fn load(&self, _model: &str, _progress: &Arc<LoadProgress>) -> Result<Loaded, Error> {
/// #         Err(Error::ShutDown)
/// #     }
/// # }
/// # let loader = Nothing;
/// let models = ModelCache::builder(loader, 24 << 30)
///     .default_model("small")
///     .max_waiting(100)
///     .max_wait(Duration::from_secs(60))
///     .build()?;
/// # Ok::<(), ModelCacheError>(())
/// ```
#[must_use = "a cache is made by build()"]
pub struct ModelCacheBuilder {
    loader: Box<dyn Loader>,
    limits: Limits,
    default: Option<String>,
    pins: Vec<String>,
    preloads: Vec<String>,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
}

impl ModelCacheBuilder {
    pub(super) fn new(loader: Box<dyn Loader>, budget: u64) -> Self {
        Self {
            loader,
            limits: Limits {
                budget,
                loads: 1,
                waiting: 1024,
                max_wait: None,
                patience: Duration::from_secs(2),
                half_life: Duration::from_secs(600),
                retry: (Duration::from_secs(1), Duration::from_secs(60)),
                popular: Some(4.0),
            },
            default: None,
            pins: Vec::new(),
            preloads: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            recorder: Arc::new(NoopRecorder),
        }
    }

    /// The model of requests that name none. Default: they are refused.
    pub fn default_model(mut self, model: impl Into<String>) -> Self {
        self.default = Some(model.into());
        self
    }

    /// Pins a model from the start: see [`ModelCache::pin`].
    pub fn pin(mut self, model: impl Into<String>) -> Self {
        self.pins.push(model.into());
        self
    }

    /// Loads a model at the start if there is room: see [`ModelCache::preload`].
    pub fn preload(mut self, model: impl Into<String>) -> Self {
        self.preloads.push(model.into());
        self
    }

    /// How often a model must have been asked for, those of long ago counting less, to be loaded
    /// again into room that nobody wants. None: no model is loaded before it is asked for.
    /// Default: 4.
    pub fn preload_popular(mut self, asked: impl Into<Option<f64>>) -> Self {
        self.limits.popular = asked.into();
        self
    }

    /// In which time an interest in a model counts half. Default: 10 minutes.
    pub fn half_life(mut self, time: Duration) -> Self {
        self.limits.half_life = time;
        self
    }

    /// Loads that run at a time, of models that were asked for. Default: 1, as each uses all cores
    /// or all of a disk.
    pub fn loads(mut self, loads: usize) -> Self {
        self.limits.loads = loads;
        self
    }

    /// Most requests that wait for their model, of all models together. Default: 1,024.
    pub fn max_waiting(mut self, requests: usize) -> Self {
        self.limits.waiting = requests;
        self
    }

    /// Longest that a request waits for its model. Default: as long as its deadline.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.limits.max_wait = Some(wait);
        self
    }

    /// How long the first in line waits for models to become idle of themselves. Then those that
    /// are to make room for it get nothing new. Short: models change places often. Long: who asks
    /// for a model that is not loaded waits long. Default: 2 s.
    pub fn patience(mut self, wait: Duration) -> Self {
        self.limits.patience = wait;
        self
    }

    /// How long after a load that failed the next is tried, and how long at most after many; each
    /// failure in a row doubles the wait. Default: 1 s and 60 s.
    pub fn retry(mut self, first: Duration, most: Duration) -> Self {
        self.limits.retry = (first, most);
        self
    }

    /// What time it is: for popularity, deadlines, patience and retries. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where `llmserve_model_cache_requests_total{result}`, `_loads_total{result}`,
    /// `_evictions_total`, `_load_seconds`, `_bytes` and `_waiting` go. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Checks the parts and starts the cache. Models that are pinned or to be preloaded are loaded
    /// after that.
    ///
    /// # Errors
    /// [`ModelCacheError`], naming the part.
    pub fn build(self) -> Result<ModelCache, ModelCacheError> {
        let limits = self.limits;
        if limits.budget == 0 {
            return Err(ModelCacheError::NoBudget);
        }
        if limits.loads == 0 {
            return Err(ModelCacheError::NoLoads);
        }
        if limits.half_life.is_zero() {
            return Err(ModelCacheError::NoHalfLife);
        }
        let recorder = GuardedRecorder::new(self.recorder);
        let instruments = Instruments::new(&recorder);
        let shared = Arc::new(Shared::new(self.loader, self.clock, instruments, limits));
        if let Some(model) = &self.default {
            shared.known(model)?;
        }
        let keeper = shared.clone();
        thread::Builder::new()
            .name("llmserve-models".into())
            .spawn(move || keeper.keep())?;
        // From here on its drop ends the thread.
        let cache = ModelCache::from_parts(shared, self.default);
        for model in &self.pins {
            cache.pin(model)?;
        }
        for model in &self.preloads {
            cache.preload(model)?;
        }
        Ok(cache)
    }
}

impl std::fmt::Debug for ModelCacheBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelCacheBuilder")
            .field("limits", &self.limits)
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}
