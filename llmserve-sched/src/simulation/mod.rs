//! A scheduler and a KV manager in virtual time: what would this traffic feel like?
//!
//! ```text
//!  Traffic ─┐ merged                  accept      ┌────────────┐
//!  Traffic ─┼─► Requests ─► arrivals ───────────► │ Scheduler  │ ◄──► KvManager
//!  trace ───┘               deadlines, cancels ─► │ (the real) │      (the real)
//!                                                 └──┬──────▲──┘
//!                                               plan │      │ commit
//!                                                    ▼      │
//!                             now += CostModel::step_time ──┘─► meters ─► Report
//! ```
//!
//! A [`Simulation`] does what an engine does around its scheduler, without a model: requests come,
//! are planned, get a token for every row that samples, and end. Time passes only as a
//! [`CostModel`] says. The [`Scheduler`] and the [`KvManager`] are the very ones that serve, and do
//! all their work: prompts are real tokens, prefixes are really hashed and found.
//!
//! The same simulation over the same scheduler gives the same [`Report`]. It takes memory for the
//! requests that are alive and for the report's histograms, not for those that have ended.
//!
//! ```
//! use llmserve_core::IdentityRoot;
//! use llmserve_kv::PagedKv;
//! use llmserve_sched::ContinuousScheduler;
//! use llmserve_sched::simulation::{Arrivals, LinearCost, Simulation, Traffic};
//!
//! let simulation = Simulation::builder()
//!     .traffic(Traffic {
//!         requests: 200,
//!         arrivals: Arrivals::Poisson { per_second: 20.0 },
//!         ..Traffic::default()
//!     })
//!     .cost(LinearCost { decode_ms: 8.0, row_ms: 0.1, prefill_tokens_per_s: 15_000.0 })
//!     .seed(7)
//!     .build()?;
//!
//! let mut scheduler = ContinuousScheduler::builder().max_num_seqs(64).build()?;
//! let root = IdentityRoot::new(1, "bf16", 16);
//! let mut kv = PagedKv::builder().blocks(4096).root(root).build()?;
//! let report = simulation.run(&mut scheduler, &mut kv)?;
//!
//! assert_eq!(report.requests.finished, 200);
//! assert!(report.ttft.p50 <= report.ttft.p99 && report.ttft.p99 < report.e2e.max);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arrivals;
mod builder;
mod cost;
mod fairness;
mod generate;
mod histogram;
mod host;
mod lengths;
mod lives;
mod meters;
mod random;
mod report;
mod request;
mod seconds;
mod timeline;
mod timers;
mod traffic;

pub use arrivals::Arrivals;
pub use builder::{SimulationBuildError, SimulationBuilder};
pub use cost::{CostModel, LinearCost, StepLoad};
pub use generate::Requests;
pub use lengths::Lengths;
pub use report::{
    Distribution, Outcomes, Preemptions, Report, Sample, TenantReport, Throughput, Tokens,
    Utilisation,
};
pub use request::{SharedPrefix, SimulatedRequest};
pub use traffic::{Cancels, Prefixes, Traffic};

use std::time::Duration;

use llmserve_core::{KvError, KvManager, Scheduler, Time};

use host::Host;

/// Why a simulation did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// The scheduler has requests already.
    #[error("the scheduler is not idle: {running} are running, {waiting} are waiting")]
    Busy {
        /// Running.
        running: usize,
        /// Waiting.
        waiting: usize,
    },
    /// A request comes before the one before it.
    #[error("request {index} arrives before the one before it: sort the trace by arrival")]
    OutOfOrder {
        /// Its place in the trace, from 0.
        index: u32,
    },
    /// The scheduler planned nothing for a minute of virtual time, although there are requests.
    #[error("the scheduler is stuck at {at:?}: {running} are running, {waiting} are waiting")]
    Stuck {
        /// When it was given up.
        at: Time,
        /// Running.
        running: usize,
        /// Waiting.
        waiting: usize,
    },
    /// The KV manager could not open a sequence.
    #[error(transparent)]
    Kv(#[from] KvError),
}

/// A workload and the cost of steps. See the [module's page](self).
pub struct Simulation {
    traffics: Vec<Traffic>,
    seed: u64,
    cost: Box<dyn CostModel>,
    fairness_window: Duration,
}

impl Simulation {
    /// Starts building one.
    pub fn builder() -> SimulationBuilder {
        SimulationBuilder::new()
    }

    /// The requests of all its traffics, in the order they come.
    pub fn requests(&self) -> Requests {
        Requests::new(&self.traffics, self.seed)
    }

    /// Runs its own requests to their end.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn run(
        &self,
        scheduler: &mut dyn Scheduler,
        kv: &mut dyn KvManager,
    ) -> Result<Report, SimulationError> {
        self.replay(self.requests(), scheduler, kv)
    }

    /// Runs the requests of a trace to their end, in place of its own. They come in the order of
    /// their arrival.
    ///
    /// One whose prompt and answer together could never fit the KV blocks is refused, as an engine
    /// refuses it. What comes, expires or gives up while a step runs is seen at its end.
    ///
    /// # Errors
    /// [`SimulationError::Busy`] for a scheduler that has requests;
    /// [`SimulationError::OutOfOrder`] for a trace that is not sorted; [`SimulationError::Stuck`]
    /// if the scheduler plans nothing for those it has; [`SimulationError::Kv`] if a sequence
    /// cannot be opened. After an error, scheduler and manager are left as they were then.
    pub fn replay(
        &self,
        requests: impl IntoIterator<Item = SimulatedRequest>,
        scheduler: &mut dyn Scheduler,
        kv: &mut dyn KvManager,
    ) -> Result<Report, SimulationError> {
        let host = Host::new(scheduler, kv, &*self.cost, self.fairness_window);
        host.run(requests.into_iter())
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("traffics", &self.traffics)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
