//! Options, checked once.

use super::Simulation;
use super::hardware::ReplicaModel;
use super::traffic::Traffic;

/// Options that cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationBuildError {
    /// There is nobody to route to.
    #[error("replicas must be within 1 and 4096")]
    Replicas,
    /// Replicas are impossible.
    #[error("replica model: {0}")]
    Model(&'static str),
    /// The traffic is impossible.
    #[error("traffic: {0}")]
    Traffic(&'static str),
}

/// Builds a [`Simulation`].
///
/// | setting | default |
/// | --- | --- |
/// | [`replicas`](Self::replicas) | 8 |
/// | [`model`](Self::model) | [`ReplicaModel::default`] |
/// | [`traffic`](Self::traffic) | [`Traffic::multi_turn`] |
/// | [`warm_up`](Self::warm_up) | three requests a client |
/// | [`requests`](Self::requests) | eight requests a client |
/// | [`seed`](Self::seed) | 0 |
///
/// ```
/// use llmserve_route::simulation::{Simulation, SimulationBuildError, Traffic};
/// let nobody = Traffic { clients: 0, ..Traffic::random() };
/// let refused = Simulation::builder().traffic(nobody).build();
/// assert!(matches!(refused.err(), Some(SimulationBuildError::Traffic(_))));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before build()"]
pub struct SimulationBuilder {
    replicas: usize,
    model: ReplicaModel,
    traffic: Traffic,
    warm_up: Option<u64>,
    requests: Option<u64>,
    seed: u64,
}

impl SimulationBuilder {
    pub(super) fn new() -> Self {
        Self {
            replicas: 8,
            model: ReplicaModel::default(),
            traffic: Traffic::multi_turn(),
            warm_up: None,
            requests: None,
            seed: 0,
        }
    }

    /// How many there are, all alike.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// What each can do.
    pub fn model(mut self, model: ReplicaModel) -> Self {
        self.model = model;
        self
    }

    /// Who asks. Of no matter where only traces are replayed.
    pub fn traffic(mut self, traffic: Traffic) -> Self {
        self.traffic = traffic;
        self
    }

    /// Requests that finish before any is counted: until caches are full and queues as long as
    /// they get.
    pub fn warm_up(mut self, requests: u64) -> Self {
        self.warm_up = Some(requests);
        self
    }

    /// Requests that are counted.
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = Some(requests);
        self
    }

    /// Which of all random workloads.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The simulation.
    ///
    /// # Errors
    /// [`SimulationBuildError`] for numbers that mean nothing.
    pub fn build(self) -> Result<Simulation, SimulationBuildError> {
        if !(1..=4_096).contains(&self.replicas) {
            return Err(SimulationBuildError::Replicas);
        }
        if let Some(fault) = self.model.fault() {
            return Err(SimulationBuildError::Model(fault));
        }
        if let Some(fault) = self.traffic.fault() {
            return Err(SimulationBuildError::Traffic(fault));
        }
        let clients = self.traffic.clients as u64;
        Ok(Simulation {
            warm_up: self.warm_up.unwrap_or(3 * clients),
            requests: self.requests.unwrap_or(8 * clients),
            replicas: self.replicas,
            model: self.model,
            traffic: self.traffic,
            seed: self.seed,
        })
    }
}
