//! One of those who may answer.

mod check;
mod heeds;
mod info;

pub use info::ReplicaInfo;

pub(crate) use check::check;

use std::any::Any;
use std::sync::Arc;

use llmserve_core::Generate;

use crate::health::Probe;

/// A named service, and what there is to know about it: see [`ReplicaInfo`].
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
///     .replica(
///         Replica::new("rack-1", shared.clone())
///             .models(["llama-70b", "qwen-7b"])
///             .alias("large", "llama-70b")
///             .region("eu")
///             .capability("tools")
///             .context(32_768)
///             .capacity(64),
///     )
///     .replica(Replica::new("rack-2", Closed))
///     .build()?;
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Replica {
    pub(crate) info: ReplicaInfo,
    pub(crate) service: Arc<dyn Generate>,
    pub(crate) probe: Option<Arc<dyn Probe>>,
    /// Whether nobody said that it heeds regions, but its kind does.
    heeds_by_kind: bool,
}

impl Replica {
    /// A replica that serves any model, with nothing else known about it; only of a router, and of
    /// a federation, tiers and a cascade, which are routers, is it known that they
    /// [heed regions](ReplicaInfo::heeds_regions), as long as no region is said.
    pub fn new(name: impl Into<String>, service: impl Generate + 'static) -> Self {
        let heeds_by_kind = heeds::by_kind(service.type_id());
        let mut info = ReplicaInfo::new(name);
        info.heeds_regions = heeds_by_kind;
        Self {
            info,
            service: Arc::new(service),
            probe: None,
            heeds_by_kind,
        }
    }

    /// How a router that makes [health checks](crate::RouterBuilder::health_checks) asks whether it
    /// is well. Without one it is not checked, and what its requests tell is all that is known.
    pub fn probe(mut self, probe: impl Probe + 'static) -> Self {
        self.probe = Some(Arc::new(probe));
        self
    }

    /// What is known about it.
    pub fn info(&self) -> &ReplicaInfo {
        &self.info
    }

    /// What answers.
    pub fn service(&self) -> &Arc<dyn Generate> {
        &self.service
    }
}

/// Setters of what is known: each replaces the field of its name or, where the field is a list,
/// adds to it.
impl Replica {
    /// Adds a model, by the name requests ask for. From the first on, it serves no others.
    pub fn model(self, name: impl Into<String>) -> Self {
        self.models([name])
    }

    /// Adds models. None at all is an error of [`build`](crate::RouterBuilder::build), not a
    /// replica that serves any.
    pub fn models(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.info
            .models
            .get_or_insert_default()
            .extend(names.into_iter().map(Into::into));
        self
    }

    /// Another name for one of its models. Requests for the name come to it as requests for the
    /// model.
    pub fn alias(mut self, name: impl Into<String>, model: impl Into<String>) -> Self {
        self.info.aliases.insert(name.into(), model.into());
        self
    }

    /// See [`ReplicaInfo::weight`].
    pub fn weight(mut self, weight: u32) -> Self {
        self.info.weight = weight;
        self
    }

    /// See [`ReplicaInfo::capacity`].
    pub fn capacity(mut self, requests: usize) -> Self {
        self.info.capacity = Some(requests);
        self
    }

    /// See [`ReplicaInfo::region`].
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.info.region = Some(region.into());
        if std::mem::take(&mut self.heeds_by_kind) {
            // Whoever says where it is does not leave it to what is inside.
            self.info.heeds_regions = false;
        }
        self
    }

    /// See [`ReplicaInfo::heeds_regions`]. Only for services that refuse what may not come to
    /// them.
    pub fn heeds_regions(mut self) -> Self {
        self.info.heeds_regions = true;
        self.heeds_by_kind = false;
        self
    }

    /// Adds to [`ReplicaInfo::capabilities`].
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.info.capabilities.insert(capability.into());
        self
    }

    /// See [`ReplicaInfo::context`].
    pub fn context(mut self, tokens: usize) -> Self {
        self.info.context = Some(tokens);
        self
    }

    /// See [`ReplicaInfo::cost`].
    pub fn cost(mut self, per_million_tokens: f64) -> Self {
        self.info.cost = Some(per_million_tokens);
        self
    }

    /// See [`ReplicaInfo::quality`].
    pub fn quality(mut self, quality: f32) -> Self {
        self.info.quality = Some(quality);
        self
    }

    /// See [`ReplicaInfo::tier`].
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.info.tier = Some(tier.into());
        self
    }

    /// See [`ReplicaInfo::identity`].
    pub fn identity(mut self, weights: impl Into<String>) -> Self {
        self.info.identity = Some(weights.into());
        self
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
