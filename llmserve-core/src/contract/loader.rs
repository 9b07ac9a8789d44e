//! From a model's name to a service that answers with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::generate::Generate;
use crate::error::Error;

/// Makes services out of models' names: an engine of a folder, a process started elsewhere, an
/// adapter put onto a base. For caches of models and routers, which decide what is loaded when.
///
/// A loader says three things of a model, each when it can be known: whether there is such a model
/// at all (at once), about how much memory it will take (after a look at its files), and how much
/// it does take (once it is loaded).
///
/// ```
/// use std::sync::Arc;
/// use llmserve_core::{Error, EventStream, Generate, LoadProgress, Loaded, Loader, Request};
///
/// struct Echo;
/// impl Generate for Echo {
///     fn generate(&self, _request: Request) -> EventStream {
///         EventStream::ready([])
///     }
/// }
///
/// /// Knows one model, of three parts.
/// struct Echoes;
/// impl Loader for Echoes {
///     fn names(&self) -> Vec<String> {
///         vec!["echo".to_owned()]
///     }
///     fn estimate(&self, _model: &str) -> Result<u64, Error> {
///         Ok(3 << 20)
///     }
///     fn load(&self, _model: &str, progress: &Arc<LoadProgress>) -> Result<Loaded, Error> {
///         for part in 1..=3 {
///             progress.check()?;
///             progress.report(part << 20, 3 << 20);
///         }
///         Ok(Loaded::new(Echo, 3 << 20))
///     }
/// }
///
/// let progress = Arc::new(LoadProgress::default());
/// let loaded = Echoes.load("echo", &progress)?;
/// assert_eq!((loaded.bytes, progress.fraction()), (3 << 20, Some(1.0)));
/// assert!(!Echoes.knows("shout"));
///
/// // Whoever loads may change their mind.
/// progress.cancel();
/// assert_eq!(Echoes.load("echo", &progress).err(), Some(Error::Cancelled));
/// # Ok::<(), Error>(())
/// ```
pub trait Loader: Send + Sync {
    /// The models there are, for lists and for the error that names them. A loader that cannot
    /// list what it knows, as one that asks a hub, lists none and overrides
    /// [`knows`](Self::knows).
    fn names(&self) -> Vec<String>;

    /// Whether there is such a model. Asked for every request of a model that is not loaded, on
    /// the host's own thread: it must neither block nor read files. Provided, by looking through
    /// [`names`](Self::names).
    fn knows(&self, model: &str) -> bool {
        self.names().iter().any(|name| name == model)
    }

    /// About how many bytes of memory `model` will take once it is loaded, everything included
    /// that it will come to use: weights, KV cache, buffers. May read files, and be wrong:
    /// [`Loaded::bytes`] corrects it. What it says too little is memory that nobody made room for.
    ///
    /// # Errors
    /// Whatever keeps the model from being loaded and shows already; [`Error::LoadFailed`] where
    /// no other says it better.
    fn estimate(&self, model: &str) -> Result<u64, Error>;

    /// Loads `model`, for as long as that takes, on a thread that has nothing else to do. Says how
    /// far it has come, and looks from time to time whether it is still [wanted](LoadProgress::check).
    ///
    /// # Errors
    /// [`Error::Cancelled`] if it is not; otherwise as [`estimate`](Self::estimate).
    fn load(&self, model: &str, progress: &Arc<LoadProgress>) -> Result<Loaded, Error>;
}

impl<L: Loader + ?Sized> Loader for Arc<L> {
    fn names(&self) -> Vec<String> {
        (**self).names()
    }

    fn knows(&self, model: &str) -> bool {
        (**self).knows(model)
    }

    fn estimate(&self, model: &str) -> Result<u64, Error> {
        (**self).estimate(model)
    }

    fn load(&self, model: &str, progress: &Arc<LoadProgress>) -> Result<Loaded, Error> {
        (**self).load(model, progress)
    }
}

/// A model that answers, and what it takes.
#[non_exhaustive]
pub struct Loaded {
    /// Answers. Nobody else has a hold of it: dropping it unloads the model, and the drop returns
    /// when the memory is free. That may take its time, and streams that are not at their end then
    /// end with an error.
    pub service: Box<dyn Generate>,
    /// Bytes of memory it takes, as far as they can be counted, and those included that it has yet
    /// to touch.
    pub bytes: u64,
}

impl Loaded {
    /// A service that takes `bytes` of memory until it is dropped.
    pub fn new(service: impl Generate + 'static, bytes: u64) -> Self {
        Self {
            service: Box::new(service),
            bytes,
        }
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// How far a load has come, and whether it is still wanted: shared by who loads and who waits.
///
/// ```
/// use llmserve_core::LoadProgress;
/// let progress = LoadProgress::default();
/// assert_eq!(progress.fraction(), None);
/// progress.report(1, 4);
/// assert_eq!(progress.fraction(), Some(0.25));
/// ```
#[derive(Debug, Default)]
pub struct LoadProgress {
    done: AtomicU64,
    /// 0 until it is known.
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl LoadProgress {
    /// Says that `done` of `total` is done, in whatever unit the loader counts.
    pub fn report(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    /// What is done, from 0 to 1; none before the first report.
    pub fn fraction(&self) -> Option<f64> {
        let total = self.total.load(Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed).min(total);
        (total > 0).then(|| done as f64 / total as f64)
    }

    /// Says that the model is not wanted any more.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether somebody said so.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// For loaders to end with, between one part and the next.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the model is not wanted any more.
    pub fn check(&self) -> Result<(), Error> {
        match self.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_stays_a_fraction_whatever_a_loader_says() {
        let progress = LoadProgress::default();
        progress.report(5, 0);
        assert_eq!(progress.fraction(), None);
        progress.report(9, 4);
        assert_eq!(progress.fraction(), Some(1.0));
        progress.report(0, u64::MAX);
        assert_eq!(progress.fraction(), Some(0.0));
    }

    #[test]
    fn loaders_are_objects_that_threads_share() {
        fn shared<T: Send + Sync + ?Sized>() {}
        shared::<dyn Loader>();
        shared::<Loaded>();
        shared::<LoadProgress>();
    }
}
