//! Putting a router together.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Router;
use super::shared::{Shared, State};
use crate::availability::Availability;
use crate::health::{Breakers, HealthCheckError, HealthChecks, Prober};
use crate::random::Rng;
use crate::reliability::{
    Backoff, Budget, Hedge, Hedging, ReliabilityError, RetryBudget, Timeouts,
};
use crate::replica::{Replica, check};
use crate::strategy::{LeastLoaded, Strategy};
use crate::timer::{SystemTimer, Timer};

/// Replicas a request is tried at, unless said otherwise: one attempt and two retries.
const DEFAULT_MAX_ATTEMPTS: usize = 3;

/// What is wrong with a router's parts.
///
/// ```
/// use llmserve_route::{BuildError, Router};
/// assert_eq!(Router::builder().build().err(), Some(BuildError::NoReplicas));
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nobody could answer.
    #[error(
        "a router needs at least one replica; where they come later, say so with allow_empty()"
    )]
    NoReplicas,
    /// A replica has the empty string for a name.
    #[error("replica {index} has no name; statistics and errors need one")]
    EmptyName {
        /// Its place, from 0.
        index: usize,
    },
    /// Two replicas have the same name.
    #[error("two replicas are named {name:?}; names tell them apart")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A replica was given a list of models with nothing in it.
    #[error(
        "replica {name:?} lists no model, so it could never be asked; leave the list out to serve any"
    )]
    NoModels {
        /// The replica.
        name: String,
    },
    /// A replica lists the empty string as a model.
    #[error("replica {name:?} lists a model without a name")]
    EmptyModel {
        /// The replica.
        name: String,
    },
    /// An alias of a replica stands for a model that the replica does not list.
    #[error(
        "replica {name:?} has the alias {alias:?} for {model:?}, which is not among its models"
    )]
    AliasOfNothing {
        /// The replica.
        name: String,
        /// The alias.
        alias: String,
        /// The model it stands for.
        model: String,
    },
    /// Something declared of a replica cannot be.
    #[error(
        "replica {name:?} has {field} {value}: capacity and context are at least 1, cost and quality are finite, and no cost is negative"
    )]
    BadValue {
        /// The replica.
        name: String,
        /// The field of [`ReplicaInfo`](crate::ReplicaInfo).
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// Following the fallbacks of a model leads back to it.
    #[error("the fallbacks of model {model:?} lead back to it")]
    FallbackCycle {
        /// The model.
        model: String,
    },
    /// Requests would be tried nowhere.
    #[error("max_attempts is 0, so no request could ever be answered; 1 turns failover off")]
    NoAttempts,
    /// Health checks that make no sense.
    #[error(transparent)]
    HealthChecks(#[from] HealthCheckError),
    /// The machine has no thread left.
    #[error("no thread could be started for {what}: {reason}")]
    NoThread {
        /// What it was for.
        what: &'static str,
        /// What the system says.
        reason: String,
    },
    /// Timeouts, pauses, budgets or hedges that make no sense.
    #[error(transparent)]
    Reliability(#[from] ReliabilityError),
}

/// The parts of a [`Router`].
///
/// ```
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// use llmserve_route::{Replica, RoundRobin, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let router = Router::builder()
///     .replica(Replica::new("a", Closed))
///     .replica(Replica::new("b", Closed))
///     .strategy(RoundRobin::new())
///     .max_attempts(2)
///     .build()?;
/// assert_eq!(router.generate(Request::text("Hi")).wait(), Err(Error::ShutDown));
/// assert!(router.stats().replicas.iter().all(|replica| replica.dispatched == 1));
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[must_use = "a router is made by build()"]
pub struct RouterBuilder {
    replicas: Vec<Replica>,
    strategy: Box<dyn Strategy>,
    availability: Option<Box<dyn Availability>>,
    fallbacks: HashMap<String, Vec<String>>,
    allow_empty: bool,
    max_attempts: usize,
    timer: Arc<dyn Timer>,
    timeouts: Timeouts,
    backoff: Backoff,
    budget: RetryBudget,
    hedge: Option<Hedge>,
    health_checks: Option<HealthChecks>,
    replay: bool,
    seed: Option<u64>,
}

impl RouterBuilder {
    pub(crate) fn new() -> Self {
        Self {
            replicas: Vec::new(),
            strategy: Box::new(LeastLoaded::new()),
            availability: None,
            fallbacks: HashMap::new(),
            allow_empty: false,
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            timer: Arc::new(SystemTimer::new()),
            timeouts: Timeouts::default(),
            backoff: Backoff::default(),
            budget: RetryBudget::default(),
            hedge: None,
            health_checks: None,
            replay: true,
            seed: None,
        }
    }

    /// Adds a replica.
    pub fn replica(mut self, replica: Replica) -> Self {
        self.replicas.push(replica);
        self
    }

    /// Adds replicas.
    pub fn replicas(mut self, replicas: impl IntoIterator<Item = Replica>) -> Self {
        self.replicas.extend(replicas);
        self
    }

    /// Who picks. Default: [`LeastLoaded`].
    pub fn strategy(mut self, strategy: impl Strategy + 'static) -> Self {
        self.strategy = Box::new(strategy);
        self
    }

    /// Who says which replicas may be asked, as far as their health goes. Default: [`Breakers`]
    /// with their own defaults; [`AlwaysAvailable`](crate::AlwaysAvailable) has none.
    pub fn availability(mut self, availability: impl Availability + 'static) -> Self {
        self.availability = Some(Box::new(availability));
        self
    }

    /// Answers requests for `model` with `other` where no replica may answer them: none serves it,
    /// each is ruled out by a limit, or each has failed. Of several for one model the first added
    /// is the first tried, and a fallback's own fallbacks come after it. Default: none.
    pub fn fallback(mut self, model: impl Into<String>, other: impl Into<String>) -> Self {
        let others = self.fallbacks.entry(model.into()).or_default();
        others.push(other.into());
        self
    }

    /// Whether there may be no replica to begin with, because they are
    /// [added](Router::add) later. Default: no.
    pub fn allow_empty(mut self, allow: bool) -> Self {
        self.allow_empty = allow;
        self
    }

    /// Most replicas a request is tried at, the first one included; at least 1, which turns
    /// failover off. More than there are replicas is no error: each is tried at most once.
    /// Default: 3.
    pub fn max_attempts(mut self, attempts: usize) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How long a replica may say nothing. Default: no limit.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// How long to wait before a retry. Default: [`Backoff::default`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How many retries and hedges there may be in all. Default: [`RetryBudget::default`].
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// When a second replica is asked although the first has not failed. Default: never.
    pub fn hedge(mut self, hedge: Hedge) -> Self {
        self.hedge = Some(hedge);
        self
    }

    /// Asks each replica that has a [probe](Replica::probe) again and again whether it is well, on
    /// one thread that ends with the router, and tells its
    /// [availability](Availability::checked). Default: nobody is asked.
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
    /// use llmserve_route::health::HealthChecks;
    /// use llmserve_route::{Replica, Router};
    /// let router = Router::builder()
    ///     .replica(Replica::new("a", Closed).probe(|_limit| async { Ok(()) }))
    ///     .health_checks(HealthChecks::default().interval(Duration::from_secs(5)))
    ///     .build()?;
    /// # drop(router);
    /// # Ok::<(), llmserve_route::BuildError>(())
    /// ```
    pub fn health_checks(mut self, checks: HealthChecks) -> Self {
        self.health_checks = Some(checks);
        self
    }

    /// Whether an answer whose replica failed goes on at another one: where it is greedy or has a
    /// seed, is one choice without processors, has said its tokens, and another replica has the
    /// same [`identity`](crate::Replica::identity). Default: yes.
    pub fn replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// What time it is, and who wakes: for pauses, timeouts, deadlines and timings. Default: a
    /// [`SystemTimer`] of its own.
    pub fn timer(mut self, timer: Arc<dyn Timer>) -> Self {
        self.timer = timer;
        self
    }

    /// What the random parts of pauses follow from. Default: the system's randomness.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks the parts and puts them together.
    ///
    /// # Errors
    /// [`BuildError`], naming the part.
    pub fn build(self) -> Result<Router, BuildError> {
        let Self {
            mut replicas,
            strategy,
            availability,
            fallbacks,
            allow_empty,
            max_attempts,
            timer,
            timeouts,
            backoff,
            budget,
            hedge,
            health_checks,
            replay,
            seed,
        } = self;
        timeouts.check()?;
        backoff.check()?;
        budget.check()?;
        if let Some(hedge) = &hedge {
            hedge.check()?;
        }
        if let Some(checks) = &health_checks {
            checks.check()?;
        }
        if replicas.is_empty() && !allow_empty {
            return Err(BuildError::NoReplicas);
        }
        if max_attempts == 0 {
            return Err(BuildError::NoAttempts);
        }
        let mut names = BTreeSet::new();
        for (index, replica) in replicas.iter_mut().enumerate() {
            check(replica, index)?;
            let name = &replica.info.name;
            if !names.insert(name.clone()) {
                return Err(BuildError::DuplicateName { name: name.clone() });
            }
        }
        let random = seed.map_or_else(Rng::new, Rng::seeded);
        let (prober, checks) = health_checks
            .map(|config| Prober::new(config, timer.clone(), Rng::seeded(random.bits())))
            .unzip();
        let shared = Shared {
            strategy,
            availability: availability.unwrap_or_else(|| Box::new(Breakers::standard())),
            timer,
            max_attempts,
            timeouts,
            backoff,
            budget: Budget::new(budget),
            hedging: hedge.map(Hedging::new),
            replay,
            random,
            prober,
            fallbacks: chains(&fallbacks)?,
            state: Mutex::new(State::new(timeouts.avoid_after)),
        };
        shared.join(&mut shared.state.lock(), replicas);
        let router = Router::from_shared(shared);
        if let Some(checks) = checks {
            let shared = Arc::downgrade(&router.shared);
            let verdict = move |slot, well| {
                if let Some(shared) = shared.upgrade() {
                    shared.checked(slot, well);
                }
            };
            let thread = std::thread::Builder::new().name("llmserve-health".into());
            let started = thread.spawn(move || checks.run(verdict));
            started.map_err(|error| BuildError::NoThread {
                what: "health checks",
                reason: error.to_string(),
            })?;
        }
        Ok(router)
    }
}

/// For each model all that may stand in for it, in order: each fallback and then those of its own.
fn chains(
    fallbacks: &HashMap<String, Vec<String>>,
) -> Result<HashMap<String, Vec<String>>, BuildError> {
    let mut chains = HashMap::new();
    for model in fallbacks.keys() {
        let mut chain: Vec<String> = Vec::new();
        // The next to visit is the last.
        let mut ahead: Vec<&String> = fallbacks[model].iter().rev().collect();
        while let Some(next) = ahead.pop() {
            if next == model {
                return Err(BuildError::FallbackCycle {
                    model: model.clone(),
                });
            }
            if !chain.contains(next) {
                chain.push(next.clone());
                ahead.extend(fallbacks.get(next).into_iter().flatten().rev());
            }
        }
        chains.insert(model.clone(), chain);
    }
    Ok(chains)
}

impl std::fmt::Debug for RouterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterBuilder")
            .field("replicas", &self.replicas)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}
