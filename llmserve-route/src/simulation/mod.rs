//! A router before replicas in virtual time: what would a policy do to this traffic?
//!
//! ```text
//!  Traffic: clients ─┐ SimulatedRequest     ┌──────────┐ assign   ┌─────────┐ queue, batch,
//!  or a trace ───────┴────────────────────► │  Router  │ ───────► │ replica │ prefix cache
//!        ▲                                  │ (the     │          └─┬─────┬─┘
//!        │ think                            │  real)   │ ◄──────────┘     │ BlockEvents
//!        │                                  └──────────┘  first token,    ▼
//!        └──────────────────────────────────────────────  end       PrefixIndex (the real)
//! ```
//!
//! A [`Simulation`] sends requests through a real [`Router`](crate::Router) with a real strategy,
//! as a host does that passes requests on by itself: every decision, every count, and the prefix
//! index are those of production. Replicas are a [`ReplicaModel`]: a queue, chunked prefill,
//! batched decode, and KV blocks that are reused by prefix and evicted, least recently used first,
//! tails before what they follow. Prompts are real tokens. Time is a number.
//!
//! The same simulation with the same policy gives the same [`Report`].
//!
//! ```
//! use llmserve_route::simulation::{Policy, ReplicaModel, Simulation, Traffic};
//!
//! let simulation = Simulation::builder()
//!     .replicas(4)
//!     .model(ReplicaModel { kv_tokens: 16_384, ..ReplicaModel::default() })
//!     .traffic(Traffic { clients: 100, ..Traffic::multi_turn() })
//!     .requests(500)
//!     .seed(7)
//!     .build()?;
//! let random = simulation.run(Policy::named("random", 16, 7)?)?;
//! let aware = simulation.run(Policy::named("kv-aware", 16, 7)?)?;
//! assert_eq!((random.requests, aware.requests), (500, 500));
//! assert!(aware.hit_rate > 2.0 * random.hit_rate);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod cache;
mod clients;
mod hardware;
mod host;
mod policy;
mod replica;
mod report;
mod request;
mod traffic;

#[cfg(test)]
mod tests;

pub use builder::{SimulationBuildError, SimulationBuilder};
pub use hardware::ReplicaModel;
pub use policy::{Policy, root};
pub use report::{ReplicaReport, Report, Sample};
pub use request::{Part, SimulatedRequest};
pub use traffic::Traffic;

use llmserve_core::Error;

use crate::router::BuildError;
use clients::Clients;
use host::{Host, Source};

/// Why a simulation did not come to its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// The router could not be built.
    #[error(transparent)]
    Router(#[from] BuildError),
    /// The router failed with a request.
    #[error("the router failed: {0}")]
    Routing(#[from] Error),
    /// A request comes before the one before it.
    #[error("request {index} arrives before the one before it: sort the trace by arrival")]
    OutOfOrder {
        /// Its place in the trace, from 0.
        index: usize,
    },
}

/// Replicas and a workload. See the [module's page](self).
#[derive(Clone, Debug)]
pub struct Simulation {
    replicas: usize,
    model: ReplicaModel,
    traffic: Traffic,
    warm_up: u64,
    requests: u64,
    seed: u64,
}

impl Simulation {
    /// Starts building one.
    pub fn builder() -> SimulationBuilder {
        SimulationBuilder::new()
    }

    /// Lets its clients talk until as many requests have finished as shall be counted.
    ///
    /// # Errors
    /// [`SimulationError::Routing`]: the policy panicked.
    pub fn run(&self, policy: Policy) -> Result<Report, SimulationError> {
        let clients = Clients::new(&self.traffic, self.seed);
        let source = Source::<std::iter::Empty<_>>::Clients(clients);
        let host = Host::new(self.replicas, self.model, policy, source, self.warm_up)?;
        host.run(self.requests)
    }

    /// Runs all requests of a trace, in place of its clients' and counting from the first. They
    /// come in the order of their arrival, whether those before were answered or not.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`SimulationError::OutOfOrder`].
    pub fn replay(
        &self,
        requests: impl IntoIterator<Item = SimulatedRequest>,
        policy: Policy,
    ) -> Result<Report, SimulationError> {
        let source = Source::Trace(requests.into_iter().peekable());
        Host::new(self.replicas, self.model, policy, source, 0)?.run(u64::MAX)
    }
}
