//! The service in front of the replicas.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llmserve_core::error::panic_message;
use llmserve_core::{Clock, Error, EventStream, Generate, Request};

use crate::builder::RouterBuilder;
use crate::candidate::Candidate;
use crate::replica::Replica;
use crate::routed::{Next, Routed};
use crate::stats::{ReplicaStats, RouterStats};
use crate::strategy::Strategy;

/// One service in front of many. Cheap to clone; all clones are the same router.
///
/// A request that names a model goes only to replicas that serve it, and is refused with
/// [`Error::UnknownModel`] when there is none; one that names none may go to any. The first
/// dispatch happens in `generate()`, failover while the stream is read. Streams outlive the
/// router's handles.
///
/// Deadlines and timings hold from the call of `generate()`, whoever answers in the end.
///
/// ```
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// use llmserve_route::{Replica, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// // Routers nest: a region is a router over racks, a router over regions has them as replicas.
/// let region = |name: &str| -> Result<Replica, llmserve_route::BuildError> {
///     let racks = Router::builder()
///         .replica(Replica::new("rack-1", Closed))
///         .replica(Replica::new("rack-2", Closed))
///         .build()?;
///     Ok(Replica::new(name, racks).model("llama"))
/// };
/// let world = Router::builder().replica(region("eu")?).replica(region("us")?).build()?;
/// // All four racks are asked before the request fails.
/// assert_eq!(world.generate(Request::text("Hi").model("llama")).wait(), Err(Error::ShutDown));
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

/// What the handles and the streams of one router share.
pub(crate) struct Shared {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) strategy: Box<dyn Strategy>,
    pub(crate) max_attempts: usize,
    pub(crate) clock: Arc<dyn Clock>,
    /// The models somebody lists, for [`Error::UnknownModel`].
    pub(crate) known: String,
}

impl Router {
    /// Starts putting a router together.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::new()
    }

    pub(crate) fn from_shared(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Every replica's counters.
    pub fn stats(&self) -> RouterStats {
        let replicas = self.shared.replicas.iter().map(|replica| ReplicaStats {
            name: replica.name.clone(),
            outstanding: replica.load.outstanding(),
            outstanding_tokens: replica.load.outstanding_tokens(),
            dispatched: replica.load.dispatched(),
            failed: replica.load.failed(),
        });
        RouterStats {
            replicas: replicas.collect(),
        }
    }
}

impl Generate for Router {
    fn generate(&self, request: Request) -> EventStream {
        let model = request.model.clone();
        let mut routed = Routed::new(self.shared.clone(), request);
        match routed.dispatch() {
            Ok(Next::Sent) => EventStream::new(routed),
            Ok(Next::Declined { outstanding }) => EventStream::failed(Error::Overloaded {
                waiting: outstanding,
                limit: outstanding,
                unit: "requests",
                retry_after: None,
            }),
            Ok(Next::Nobody) => EventStream::failed(Error::UnknownModel {
                name: model.unwrap_or_default(),
                known: self.shared.known.clone(),
            }),
            Err(error) => EventStream::failed(error),
        }
    }
}

impl Shared {
    /// Those that serve the request's model and are not in `tried`, by index.
    pub(crate) fn candidates(&self, request: &Request, tried: &[usize]) -> Vec<Candidate<'_>> {
        let model = request.model.as_deref();
        self.replicas
            .iter()
            .enumerate()
            .filter(|(index, replica)| replica.serves(model) && !tried.contains(index))
            .map(|(index, replica)| replica.candidate(index))
            .collect()
    }

    /// The strategy's pick, as a replica's index.
    pub(crate) fn pick(
        &self,
        candidates: &[Candidate<'_>],
        request: &Request,
    ) -> Result<Option<usize>, Error> {
        const PART: &str = "routing strategy";
        let pick = catch_unwind(AssertUnwindSafe(|| self.strategy.pick(candidates, request)))
            .map_err(|panic| Error::Panicked {
                part: PART,
                message: panic_message(&*panic),
            })?;
        let Some(place) = pick else { return Ok(None) };
        match candidates.get(place) {
            Some(candidate) => Ok(Some(candidate.index)),
            // What indexing would have done, had it been the strategy's to do.
            None => Err(Error::Panicked {
                part: PART,
                message: format!("picked place {place} of {} candidates", candidates.len()),
            }),
        }
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("replicas", &self.shared.replicas)
            .field("max_attempts", &self.shared.max_attempts)
            .finish_non_exhaustive()
    }
}
