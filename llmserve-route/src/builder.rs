//! Putting a router together.

use std::collections::BTreeSet;
use std::sync::Arc;

use llmserve_core::{Clock, SystemClock};

use crate::replica::Replica;
use crate::router::{Router, Shared};
use crate::strategy::{LeastLoaded, Strategy};

/// Replicas a request is tried at, unless said otherwise: one attempt and two retries.
const DEFAULT_MAX_ATTEMPTS: usize = 3;

/// What is wrong with a router's parts.
///
/// ```
/// use llmserve_route::{BuildError, Router};
/// assert_eq!(Router::builder().build().err(), Some(BuildError::NoReplicas));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nobody could answer.
    #[error("a router needs at least one replica")]
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
    /// Requests would be tried nowhere.
    #[error("max_attempts is 0, so no request could ever be answered; 1 turns failover off")]
    NoAttempts,
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
    max_attempts: usize,
    clock: Arc<dyn Clock>,
}

impl RouterBuilder {
    pub(crate) fn new() -> Self {
        Self {
            replicas: Vec::new(),
            strategy: Box::new(LeastLoaded::new()),
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            clock: Arc::new(SystemClock::new()),
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

    /// Most replicas a request is tried at, the first one included; at least 1, which turns
    /// failover off. More than there are replicas is no error: each is tried at most once.
    /// Default: 3.
    pub fn max_attempts(mut self, attempts: usize) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The time a failover takes is measured with: it is taken off the request's deadline and
    /// added to the answer's timings. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
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
            max_attempts,
            clock,
        } = self;
        if replicas.is_empty() {
            return Err(BuildError::NoReplicas);
        }
        if max_attempts == 0 {
            return Err(BuildError::NoAttempts);
        }
        let mut names = BTreeSet::new();
        let mut known = BTreeSet::new();
        for (index, replica) in replicas.iter_mut().enumerate() {
            let name = replica.name.clone();
            if name.is_empty() {
                return Err(BuildError::EmptyName { index });
            }
            if let Some(models) = &mut replica.models {
                if models.is_empty() {
                    return Err(BuildError::NoModels { name });
                }
                if models.iter().any(String::is_empty) {
                    return Err(BuildError::EmptyModel { name });
                }
                models.sort_unstable();
                models.dedup();
                known.extend(models.iter().cloned());
            }
            // A replica given to two routers, or cloned, is counted by each for itself.
            replica.load = Arc::default();
            if !names.insert(name.clone()) {
                return Err(BuildError::DuplicateName { name });
            }
        }
        Ok(Router::from_shared(Shared {
            replicas,
            strategy,
            max_attempts,
            clock,
            known: known.into_iter().collect::<Vec<_>>().join(", "),
        }))
    }
}

impl std::fmt::Debug for RouterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterBuilder")
            .field("replicas", &self.replicas)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}
