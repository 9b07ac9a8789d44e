//! The service in front of the replicas.

mod assigned;
mod attempt;
mod builder;
mod eligible;
mod routed;
mod shared;
mod silence;

pub use assigned::Assigned;
pub(crate) use attempt::Attempt;
pub use builder::{BuildError, RouterBuilder};

use std::sync::Arc;

use llmserve_core::{Error, EventStream, Generate, Request, Time};

use crate::ask::Prepared;
use crate::fleet::{Fleet, Slot};
use crate::replica::{Replica, check};
use crate::stats::{ReplicaStats, RouterStats};
use routed::Routed;
use shared::{Refusal, Shared};

/// One service in front of many. Cheap to clone; all clones are the same router.
///
/// A request goes only to replicas that serve its model and meet every limit in its
/// [`Routing`](llmserve_core::Routing). Where nobody lists the model it is refused with
/// [`Error::UnknownModel`], where limits rule everybody out with [`Error::NoReplica`]. The first
/// dispatch happens in `generate()`, failover while the stream is read. Streams outlive the
/// router's handles, and replicas removed.
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

/// No replica has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no replica is named {name:?}; there are: {known}")]
pub struct UnknownReplica {
    /// The name.
    pub name: String,
    /// Those there are.
    pub known: String,
}

impl Router {
    /// Starts putting a router together.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::new()
    }

    fn from_shared(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What time it is, by the router's own [timer](RouterBuilder::timer).
    pub fn now(&self) -> Time {
        self.shared.timer.now()
    }

    /// Every replica's counters.
    pub fn stats(&self) -> RouterStats {
        let state = self.shared.state.lock();
        let replicas = state.fleet.members().map(|(slot, replica)| {
            let load = &state.loads[slot.index()];
            ReplicaStats {
                name: replica.info.name.clone(),
                draining: state.fleet.is_draining(slot),
                outstanding: load.outstanding as usize,
                outstanding_tokens: load.tokens,
                dispatched: load.dispatched,
                failed: load.failed,
            }
        });
        RouterStats {
            replicas: replicas.collect(),
        }
    }
}

/// Who is there, while it runs.
impl Router {
    /// The members at this moment.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.shared.state.lock().fleet.clone()
    }

    /// Adds a replica: the next decision may pick it.
    ///
    /// # Errors
    /// [`BuildError`]: the replica makes no sense, or its name is taken.
    pub fn add(&self, mut replica: Replica) -> Result<Slot, BuildError> {
        let mut state = self.shared.state.lock();
        check(&mut replica, state.fleet.len())?;
        let name = &replica.info.name;
        if state.fleet.find(name).is_some() {
            return Err(BuildError::DuplicateName { name: name.clone() });
        }
        Ok(self.shared.join(&mut state, vec![replica]))
    }

    /// Removes a replica: nothing goes there any more, and its counters are gone. Streams it has
    /// begun go on to their end; [drain](Self::drain) it first to see when that is.
    ///
    /// # Errors
    /// [`UnknownReplica`].
    pub fn remove(&self, name: &str) -> Result<(), UnknownReplica> {
        let mut state = self.shared.state.lock();
        let slot = state
            .fleet
            .find(name)
            .ok_or_else(|| unknown(&state.fleet, name))?;
        let before = self.shared.leave(&mut state, slot);
        drop(state);
        // The last handle of a service may be in here.
        drop(before);
        Ok(())
    }

    /// Sends a replica nothing more, until [`undrain`](Self::undrain). What it has begun goes on,
    /// and [`stats`](Self::stats) tells when all of it has ended.
    ///
    /// # Errors
    /// [`UnknownReplica`].
    pub fn drain(&self, name: &str) -> Result<(), UnknownReplica> {
        self.set_draining(name, true)
    }

    /// Takes a draining replica back.
    ///
    /// # Errors
    /// [`UnknownReplica`].
    pub fn undrain(&self, name: &str) -> Result<(), UnknownReplica> {
        self.set_draining(name, false)
    }

    fn set_draining(&self, name: &str, draining: bool) -> Result<(), UnknownReplica> {
        let mut state = self.shared.state.lock();
        let slot = state
            .fleet
            .find(name)
            .ok_or_else(|| unknown(&state.fleet, name))?;
        state.fleet = Arc::new(state.fleet.with_draining(slot, draining));
        Ok(())
    }
}

/// Deciding without sending.
impl Router {
    /// What the strategy wants to know of a request before it decides: once a request.
    ///
    /// # Errors
    /// [`Error::Panicked`]: the strategy did.
    pub fn prepare(&self, request: &Request) -> Result<Prepared, Error> {
        self.shared.prepare(request)
    }

    /// Decides who answers a request and counts it there, without sending it; those in `tried` are
    /// not asked again. For hosts that pass requests on by themselves.
    ///
    /// ```
    /// # use llmserve_core::{Error, EventStream, Generate, Request};
    /// # use llmserve_route::{End, Replica, Router};
    /// # struct Closed;
    /// # impl Generate for Closed {
    /// #     fn generate(&self, _request: Request) -> EventStream {
    /// #         EventStream::failed(Error::ShutDown)
    /// #     }
    /// # }
    /// let router = Router::builder().replica(Replica::new("a", Closed)).build()?;
    /// let request = Request::text("Hi");
    /// let prepared = router.prepare(&request)?;
    /// let mut assigned = router.assign(&request, &prepared, &[])?;
    /// assert_eq!(assigned.replica().info().name, "a");
    /// assert_eq!(router.stats().outstanding(), 1);
    /// assigned.end(End::Finished);
    /// assert_eq!(router.stats().outstanding(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownModel`], [`Error::NoReplica`], [`Error::Overloaded`] where the strategy
    /// wants nobody, [`Error::Panicked`].
    pub fn assign(
        &self,
        request: &Request,
        prepared: &Prepared,
        tried: &[Slot],
    ) -> Result<Assigned, Error> {
        let assigned = self.shared.assign(request, prepared, tried, None);
        assigned.map_err(Refusal::into_error)
    }
}

fn unknown(fleet: &Fleet, name: &str) -> UnknownReplica {
    let known: Vec<_> = fleet.members().map(|(_, r)| r.info.name.as_str()).collect();
    UnknownReplica {
        name: name.to_owned(),
        known: known.join(", "),
    }
}

impl Generate for Router {
    fn generate(&self, request: Request) -> EventStream {
        match Routed::begin(self.shared.clone(), request) {
            Ok(routed) => EventStream::new(routed),
            Err(error) => EventStream::failed(error),
        }
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("fleet", &self.fleet())
            .field("max_attempts", &self.shared.max_attempts)
            .finish_non_exhaustive()
    }
}
