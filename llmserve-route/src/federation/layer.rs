//! A router over regions.

use std::sync::Arc;

use llmserve_core::{EventStream, Generate, Request};

use super::config::{FederationConfig, Mode};
use super::score::RegionScore;
use crate::replica::Replica;
use crate::router::{BuildError, Router, RouterBuilder, UnknownReplica};
use crate::stats::RouterStats;
use crate::timer::{SystemTimer, Timer};

/// A region: a replica that is named like the region it is in.
///
/// What it can do, what it costs and how much it takes are the [`Replica`]'s own: see
/// [`replica`](Self::replica).
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use llmserve_route::federation::Region;
/// let region = Region::new("eu", Closed).capacity(256).cost(0.8).replica(|eu| eu.model("llama"));
/// assert_eq!(region.name(), "eu");
/// ```
#[derive(Clone, Debug)]
pub struct Region(Replica);

impl Region {
    /// A region whose requests `service` answers: an engine there, or a router over the replicas
    /// there, each of which then states the region too.
    pub fn new(name: impl Into<String>, service: impl Generate + 'static) -> Self {
        let name = name.into();
        Self(Replica::new(name.clone(), service).region(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.info.name
    }

    /// See [`ReplicaInfo::capacity`](crate::ReplicaInfo::capacity).
    pub fn capacity(self, requests: usize) -> Self {
        Self(self.0.capacity(requests))
    }

    /// See [`ReplicaInfo::cost`](crate::ReplicaInfo::cost).
    pub fn cost(self, per_million_tokens: f64) -> Self {
        Self(self.0.cost(per_million_tokens))
    }

    /// Changes what else is known about it. Its name and where it is stay.
    pub fn replica(self, change: impl FnOnce(Replica) -> Replica) -> Self {
        let name = self.0.info.name.clone();
        let mut replica = change(self.0);
        replica.info.name.clone_from(&name);
        Self(replica.region(name))
    }
}

/// What is wrong with a federation's parts.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// A region is a replica of a router, and could not be one.
    #[error(transparent)]
    Replica(#[from] BuildError),
    /// Something in the configuration cannot be.
    #[error("{what} is {value}: {reason}")]
    BadValue {
        /// What.
        what: String,
        /// Its value.
        value: String,
        /// What it must be.
        reason: &'static str,
    },
    /// The configuration names a region that is not there.
    #[error("the configuration has {field} for region {name:?}; the regions are: {known}")]
    UnknownRegion {
        /// The field of [`FederationConfig`].
        field: &'static str,
        /// The region.
        name: String,
        /// Those there are.
        known: String,
    },
    /// N+1 was asked for, and cannot be kept.
    #[error("N+1 keeps the largest region's capacity free, but {reason}")]
    NoReserve {
        /// Why it cannot.
        reason: String,
    },
}

/// Regions as one service. Cheap to clone.
///
/// | setting | default |
/// | --- | --- |
/// | [`config`](FederationBuilder::config) | [`FederationConfig::default`] |
/// | regions tried for one request | all that may answer it |
///
/// ```
/// # use llmserve_core::{Error, Event, EventStream, FinishReason, Finished, Generate};
/// # use llmserve_core::{Timings, Usage};
/// # struct Brief;
/// # impl Generate for Brief {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::ready([Ok(Event::Finished(Finished {
/// #             index: 0,
/// #             reason: FinishReason::Length,
/// #             text: String::new(),
/// #             usage: Usage::default(),
/// #             timings: Timings::default(),
/// #         }))])
/// #     }
/// # }
/// use llmserve_core::{Request, Routing};
/// use llmserve_route::federation::{Federation, FederationConfig, Region};
/// let world = Federation::builder()
///     .region(Region::new("eu", Brief))
///     .region(Region::new("us", Brief))
///     .config(FederationConfig::default().latency_ms("fr", "eu", 8.0).latency_ms("fr", "us", 90.0))
///     .build()?;
/// let from_france = Request::text("Bonjour").routing(Routing::default().origin("fr"));
/// assert!(world.generate(from_france).wait().is_ok());
/// assert_eq!(world.stats().replicas[0].dispatched, 1);
/// // Whoever may be answered in the EU only, is not answered at all without it.
/// world.drain("eu")?;
/// let stays = Request::text("Hi").routing(Routing::default().region("eu"));
/// assert!(matches!(world.generate(stays).wait(), Err(Error::NoReplica { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Federation {
    router: Router,
    score: Arc<RegionScore>,
    timer: Arc<dyn Timer>,
}

impl Federation {
    /// Starts putting regions together.
    pub fn builder() -> FederationBuilder {
        FederationBuilder {
            regions: Vec::new(),
            config: FederationConfig::default(),
            router: Router::builder(),
            timer: Arc::new(SystemTimer::new()),
            max_attempts: None,
        }
    }

    /// The router that the regions are replicas of.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Every region's counters.
    pub fn stats(&self) -> RouterStats {
        self.router.stats()
    }

    /// Sends a region nothing more, until [`undrain`](Self::undrain). What it has begun goes on.
    ///
    /// # Errors
    /// [`UnknownReplica`].
    pub fn drain(&self, region: &str) -> Result<(), UnknownReplica> {
        self.router.drain(region)
    }

    /// Takes a drained region back: it may answer at once where nobody else may, and is in favour
    /// again after [`failback_after`](FederationConfig::failback_after).
    ///
    /// # Errors
    /// [`UnknownReplica`].
    pub fn undrain(&self, region: &str) -> Result<(), UnknownReplica> {
        let fleet = self.router.fleet();
        // First out of favour, so that nothing comes in between.
        if let Some(slot) = fleet.find(region)
            && fleet.is_draining(slot)
        {
            self.score.send_out(slot, self.timer.now());
        }
        self.router.undrain(region)
    }
}

impl Generate for Federation {
    fn generate(&self, request: Request) -> EventStream {
        self.router.generate(request)
    }
}

impl std::fmt::Debug for Federation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Federation")
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

/// The parts of a [`Federation`].
#[must_use = "a service is made by build()"]
pub struct FederationBuilder {
    regions: Vec<Region>,
    config: FederationConfig,
    router: RouterBuilder,
    timer: Arc<dyn Timer>,
    max_attempts: Option<usize>,
}

impl FederationBuilder {
    /// Adds a region.
    pub fn region(mut self, region: Region) -> Self {
        self.regions.push(region);
        self
    }

    /// How regions are chosen. Default: [`FederationConfig::default`].
    pub fn config(mut self, config: FederationConfig) -> Self {
        self.config = config;
        self
    }

    /// See [`RouterBuilder::timer`].
    pub fn timer(mut self, timer: Arc<dyn Timer>) -> Self {
        self.timer = timer;
        self
    }

    /// Most regions a request is tried at; at least 1, which turns failover off. Default: all.
    pub fn max_attempts(mut self, attempts: usize) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Other settings of the [router](Federation::router): availability, timeouts, hedges. Its
    /// strategy, replicas, timer and attempts are set here.
    pub fn configure(mut self, configure: impl FnOnce(RouterBuilder) -> RouterBuilder) -> Self {
        self.router = configure(self.router);
        self
    }

    /// Checks the parts and puts them together.
    ///
    /// # Errors
    /// [`FederationError`].
    pub fn build(self) -> Result<Federation, FederationError> {
        let Self {
            regions,
            config,
            router,
            timer,
            max_attempts,
        } = self;
        let known = |name: &String| regions.iter().any(|region| region.name() == name);
        let to = config.latency_ms.values().flat_map(|to| to.keys());
        let latencies = to.map(|region| ("latency_ms", region));
        let priorities = config.priority.keys().map(|region| ("priority", region));
        if let Some((field, name)) = latencies.chain(priorities).find(|(_, name)| !known(name)) {
            let names: Vec<_> = regions.iter().map(Region::name).collect();
            return Err(FederationError::UnknownRegion {
                field,
                name: name.clone(),
                known: names.join(", "),
            });
        }
        if config.mode == Mode::NPlusOne {
            let without = |region: &&Region| region.0.info.capacity.is_none();
            let reason = if regions.len() < 2 {
                Some(format!(
                    "there are {} regions; 2 are the least",
                    regions.len()
                ))
            } else {
                let region = regions.iter().find(without);
                region.map(|region| format!("region {:?} has no capacity", region.name()))
            };
            if let Some(reason) = reason {
                return Err(FederationError::NoReserve { reason });
            }
        }
        let score = Arc::new(RegionScore::new(config)?);
        let attempts = max_attempts.unwrap_or(regions.len().max(1));
        let router = router
            .replicas(regions.into_iter().map(|region| region.0))
            .strategy(score.clone())
            .timer(timer.clone())
            .max_attempts(attempts)
            .build()?;
        Ok(Federation {
            router,
            score,
            timer,
        })
    }
}

impl std::fmt::Debug for FederationBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FederationBuilder")
            .field("regions", &self.regions)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
