//! One of several services of different strength.

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{EventStream, Generate, Request};

use super::complexity::Complexity;
use crate::replica::Replica;
use crate::router::BuildError;

/// A replica as a tier: what it costs, how good it is, and where it runs are the
/// [`Replica`]'s own; its name is the tier's.
///
/// Its cost and quality are taken for all that is behind it: a service that is a router over
/// several states the highest cost and the least quality among them. Limits of cost, quality and
/// tier are kept here and not passed on, since what is behind a tier may state none.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use std::time::Duration;
/// use llmserve_route::Replica;
/// use llmserve_route::tiers::Tier;
/// let tier = Tier::new(Replica::new("fast", Closed).cost(0.2).quality(0.6))
///     .latency(Duration::from_millis(400))
///     .handles(0.3);
/// assert_eq!(tier.name(), "fast");
/// ```
#[derive(Clone, Debug)]
pub struct Tier {
    pub(super) replica: Replica,
    pub(super) latency: Option<Duration>,
    pub(super) handles: Option<f32>,
}

/// What is wrong with tiers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// A tier is a replica of a router, and could not be one.
    #[error(transparent)]
    Replica(#[from] BuildError),
    /// A complexity is none.
    #[error("tier {name:?} handles complexities up to {value}; they are from 0 to 1")]
    BadComplexity {
        /// The tier.
        name: String,
        /// What it was to handle.
        value: f32,
    },
    /// A tier costs more than one that comes after it.
    #[error(
        "tier {name:?} costs {cost}, more than {next:?} after it: a cascade begins with the cheapest"
    )]
    NotCheapestFirst {
        /// The tier.
        name: String,
        /// Its cost.
        cost: f64,
        /// The one after it.
        next: String,
    },
}

impl Tier {
    /// A tier of the replica's name.
    pub fn new(mut replica: Replica) -> Self {
        let name = replica.info.name.clone();
        replica.service = Arc::new(Within(replica.service));
        Self {
            replica: replica.tier(name),
            latency: None,
            handles: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.replica.info.name
    }

    /// How long a whole answer takes as a rule. Default: not known, and taken to be short enough
    /// for any [`latency_budget`](llmserve_core::Routing::latency_budget).
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// The hardest it answers well, from 0 to 1: see [`Complexity`]. [`Tiered`](super::Tiered)
    /// reads it. Default: by its place among the tiers, the first of four up to 0.25 and the last
    /// up to 1.
    pub fn handles(mut self, complexity: f32) -> Self {
        self.handles = Some(complexity);
        self
    }

    /// What it handles, as the one in place `at` of `of`.
    pub(super) fn handled(&self, at: usize, of: usize) -> Result<Complexity, TierError> {
        let Some(value) = self.handles else {
            return Ok(Complexity::new((at + 1) as f32 / of as f32));
        };
        if !(0.0..=1.0).contains(&value) {
            return Err(TierError::BadComplexity {
                name: self.name().to_owned(),
                value,
            });
        }
        Ok(Complexity::new(value))
    }
}

/// What a tier answers for: who is behind it is not asked again.
struct Within(Arc<dyn Generate>);

impl Generate for Within {
    fn generate(&self, mut request: Request) -> EventStream {
        request.routing.tier = None;
        request.routing.max_cost = None;
        request.routing.min_quality = None;
        self.0.generate(request)
    }
}
