//! One of those who may answer.

use std::sync::Arc;

use llmserve_core::Generate;

use crate::candidate::Candidate;
use crate::load::Load;

/// A named service and the models it serves.
///
/// Without [`model`](Self::model) or [`models`](Self::models) it serves any model: right for
/// replicas of one engine, or for a router that does its own filtering.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// use llmserve_route::{Replica, Router};
///
/// struct Closed;
/// impl Generate for Closed {
///     fn generate(&self, _request: Request) -> EventStream {
///         EventStream::failed(Error::ShutDown)
///     }
/// }
///
/// // A service is taken as it is or shared.
/// let shared: Arc<dyn Generate> = Arc::new(Closed);
/// let router = Router::builder()
///     .replica(Replica::new("rack-1", shared.clone()).models(["llama", "qwen"]))
///     .replica(Replica::new("rack-2", Closed))
///     .build()?;
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Replica {
    pub(crate) name: String,
    pub(crate) service: Arc<dyn Generate>,
    /// Sorted and without duplicates once built. None: any.
    pub(crate) models: Option<Vec<String>>,
    pub(crate) load: Arc<Load>,
}

impl Replica {
    /// A replica that serves any model.
    pub fn new(name: impl Into<String>, service: impl Generate + 'static) -> Self {
        Self {
            name: name.into(),
            service: Arc::new(service),
            models: None,
            load: Arc::default(),
        }
    }

    /// Adds a model, by the name requests ask for. From the first on, it serves no others.
    pub fn model(self, name: impl Into<String>) -> Self {
        self.models([name])
    }

    /// Adds models. None at all is an error of [`build`](crate::RouterBuilder::build), not a
    /// replica that serves any.
    pub fn models(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.models
            .get_or_insert_default()
            .extend(names.into_iter().map(Into::into));
        self
    }

    /// Whether it may be asked for `model`; a request that names none may go to anybody.
    pub(crate) fn serves(&self, model: Option<&str>) -> bool {
        match (&self.models, model) {
            (Some(models), Some(model)) => models
                .binary_search_by(|known| known.as_str().cmp(model))
                .is_ok(),
            _ => true,
        }
    }

    pub(crate) fn candidate(&self, index: usize) -> Candidate<'_> {
        Candidate {
            index,
            name: &self.name,
            models: self.models.as_deref(),
            outstanding: self.load.outstanding(),
            outstanding_tokens: self.load.outstanding_tokens(),
            dispatched: self.load.dispatched(),
        }
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("name", &self.name)
            .field("models", &self.models)
            .field("load", &self.load)
            .finish_non_exhaustive()
    }
}
