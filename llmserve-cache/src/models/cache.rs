//! The handle that hosts hold.

use std::sync::Arc;

use llmserve_core::{Error, EventStream, Generate, Loader, Request};

use super::builder::ModelCacheBuilder;
use super::keeper::Shared;
use super::stats::ModelCacheStats;

/// Several models behind one service, as many of them loaded as a budget of memory allows. Cheap
/// to clone; all clones are the same cache. See [the module](super) for how it decides.
///
/// A request for a model that is loaded goes straight to it. One for a model that is not waits
/// until it is, in order and in bounded number, and its deadline and timings count the wait. What
/// can go wrong comes through the stream: [`Error::UnknownModel`], [`Error::LoadFailed`] for a
/// model that cannot be loaded, whatever else the loader says, [`Error::Overloaded`] where too
/// many wait, and [`Error::TimedOut`].
///
/// A model is in use until its answer is complete, dropped, or the service has said so
/// ([`Request::on_end`]), so a reader that is slow to read what is ready keeps no model.
///
/// Dropping the last handle lets the accepted requests finish, then unloads everything and ends
/// the threads.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::models::ModelCache;
/// use llmserve_core::{Error, EventStream, Generate, LoadProgress, Loaded, Loader, Request};
///
/// struct Echo;
/// impl Generate for Echo {
///     fn generate(&self, _request: Request) -> EventStream {
///         EventStream::ready([])
///     }
/// }
///
/// /// Three models of 4 GiB.
/// struct Echoes;
/// impl Loader for Echoes {
///     fn names(&self) -> Vec<String> {
///         ["a", "b", "c"].map(str::to_owned).into()
///     }
///     fn estimate(&self, _model: &str) -> Result<u64, Error> {
///         Ok(4 << 30)
///     }
///     fn load(&self, _model: &str, _progress: &Arc<LoadProgress>) -> Result<Loaded, Error> {
///         Ok(Loaded::new(Echo, 4 << 30))
///     }
/// }
///
/// // Room for two.
/// let models = ModelCache::builder(Echoes, 10 << 30).default_model("a").build()?;
/// for model in ["a", "b", "a", "c"] {
///     models.generate(Request::text("Hi").model(model)).wait()?;
/// }
/// models.generate(Request::text("Hi")).wait()?;
///
/// let stats = models.stats();
/// // Who had to go for "c" depends on how long each took to load.
/// assert!(stats.loads >= 3 && stats.evictions >= 1 && stats.hits >= 1);
/// assert!(stats.bytes <= stats.budget);
///
/// let unknown = models.generate(Request::text("Hi").model("d")).wait();
/// assert!(matches!(unknown, Err(Error::UnknownModel { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ModelCache {
    handle: Arc<Handle>,
}

/// What dies with the last clone.
struct Handle {
    shared: Arc<Shared>,
    default: Option<String>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.tell(|state| state.close_all(false));
    }
}

impl ModelCache {
    /// Starts putting together a cache that keeps models of `loader` in `budget` bytes.
    pub fn builder(loader: impl Loader + 'static, budget: u64) -> ModelCacheBuilder {
        ModelCacheBuilder::new(Box::new(loader), budget)
    }

    pub(super) fn from_parts(shared: Arc<Shared>, default: Option<String>) -> Self {
        Self {
            handle: Arc::new(Handle { shared, default }),
        }
    }

    /// Loads a model, in its turn and whoever has to go for it, and keeps it from then on. A load
    /// that fails is tried again when a request asks for the model, or with the next call.
    ///
    /// # Errors
    /// [`Error::UnknownModel`]; [`Error::Panicked`] for the loader; [`Error::ShutDown`].
    pub fn pin(&self, model: &str) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let name = shared.known(model)?;
        let now = shared.clock.now();
        shared.tell(|state| state.pin(now, &name))
    }

    /// Lets a model go when its room is needed, as any other.
    pub fn unpin(&self, model: &str) {
        self.handle.shared.tell(|state| state.unpin(&model.into()));
    }

    /// Loads a model when there is room that nobody else wants: nobody goes for it, and it waits
    /// for everything that was asked for.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub fn preload(&self, model: &str) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let name = shared.known(model)?;
        shared.tell(|state| state.preload(&name))
    }

    /// What is loaded, who waits, how far loads have come, and what has happened.
    pub fn stats(&self) -> ModelCacheStats {
        self.handle.shared.stats()
    }

    /// Refuses new requests, ends those that wait with [`Error::ShutDown`], cancels loads, unloads
    /// every model whether or not it is idle, and waits until all of that is done. A loader that
    /// does not look whether it is still wanted is waited for. Not to be called from the loader or
    /// a service of the cache.
    pub fn shutdown(&self) {
        self.handle.shared.tell(|state| state.close_all(true));
        self.handle.shared.wait_for_end();
    }
}

impl Generate for ModelCache {
    fn generate(&self, request: Request) -> EventStream {
        let Handle { shared, default } = &*self.handle;
        let name = request.model.clone().or_else(|| default.clone());
        match name {
            Some(name) => shared.generate(&name, request),
            None => EventStream::failed(shared.nameless()),
        }
    }
}

impl std::fmt::Debug for ModelCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelCache")
            .field("default", &self.handle.default)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
