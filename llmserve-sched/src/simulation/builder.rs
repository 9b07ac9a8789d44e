//! Options, checked once.

use std::time::Duration;

use super::Simulation;
use super::cost::{CostModel, LinearCost};
use super::traffic::Traffic;

/// Options that cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationBuildError {
    /// A traffic is impossible.
    #[error("traffic {index}: {reason}")]
    Traffic {
        /// Which, in the order they were given.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The cost of a step is no time.
    #[error("cost: {0}")]
    Cost(&'static str),
    /// The window of the fairness index has no length.
    #[error("fairness_window must be longer than 0")]
    FairnessWindow,
}

/// Builds a [`Simulation`].
///
/// ```
/// use llmserve_sched::simulation::{Lengths, Simulation, SimulationBuildError, Traffic};
/// let nothing = Traffic { output: Lengths::Fixed { tokens: 0 }, ..Traffic::default() };
/// let refused = Simulation::builder().traffic(nothing).build();
/// assert!(matches!(refused.err(), Some(SimulationBuildError::Traffic { index: 0, .. })));
/// ```
#[must_use = "a builder does nothing before build()"]
pub struct SimulationBuilder {
    traffics: Vec<Traffic>,
    seed: u64,
    cost: Box<dyn CostModel>,
    fairness_window: Duration,
}

impl SimulationBuilder {
    pub(super) fn new() -> Self {
        Self {
            traffics: Vec::new(),
            seed: 0,
            cost: Box::new(LinearCost::default()),
            fairness_window: Duration::from_secs(1),
        }
    }

    /// Adds requests of one kind. None need be added if only traces are replayed.
    pub fn traffic(mut self, traffic: Traffic) -> Self {
        self.traffics.push(traffic);
        self
    }

    /// Which of all random workloads; 0 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long steps take; [`LinearCost`] by default.
    pub fn cost(mut self, cost: impl CostModel + 'static) -> Self {
        self.cost = Box::new(cost);
        self
    }

    /// The windows of the report's [`fairness`](super::Report::fairness); a second by default.
    pub fn fairness_window(mut self, window: Duration) -> Self {
        self.fairness_window = window;
        self
    }

    /// The simulation.
    ///
    /// # Errors
    /// [`SimulationBuildError`] for numbers that mean nothing, such as a rate of 0 or a share
    /// above 1.
    pub fn build(self) -> Result<Simulation, SimulationBuildError> {
        for (index, traffic) in self.traffics.iter().enumerate() {
            if let Some(reason) = traffic.fault() {
                return Err(SimulationBuildError::Traffic { index, reason });
            }
        }
        if let Some(fault) = self.cost.fault() {
            return Err(SimulationBuildError::Cost(fault));
        }
        if self.fairness_window.is_zero() {
            return Err(SimulationBuildError::FairnessWindow);
        }
        Ok(Simulation {
            traffics: self.traffics,
            seed: self.seed,
            cost: self.cost,
            fairness_window: self.fairness_window,
        })
    }
}

impl std::fmt::Debug for SimulationBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulationBuilder")
            .field("traffics", &self.traffics)
            .field("seed", &self.seed)
            .field("fairness_window", &self.fairness_window)
            .finish_non_exhaustive()
    }
}
