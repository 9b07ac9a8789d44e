//! What a router has done, in numbers.

/// Every replica's counters, in the order of their slots: that in which they were added, as long
/// as none is removed.
///
/// Each number is exact when it is read; numbers read one after another while requests run are
/// no snapshot.
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
/// let router = Router::builder().replica(Replica::new("only", Closed)).build()?;
/// let stream = router.generate(Request::text("Hi"));
/// assert_eq!(router.stats().outstanding(), 1);
/// drop(stream);
/// assert_eq!(router.stats().outstanding(), 0);
/// assert_eq!(router.stats().replicas[0].dispatched, 1);
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouterStats {
    /// One for each replica.
    pub replicas: Vec<ReplicaStats>,
}

impl RouterStats {
    /// Requests dispatched by this router and not ended, over all replicas.
    pub fn outstanding(&self) -> usize {
        self.replicas
            .iter()
            .map(|replica| replica.outstanding)
            .sum()
    }
}

/// One replica's counters, as this router sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaStats {
    /// The replica's name.
    pub name: String,
    /// Whether it takes no new requests.
    pub draining: bool,
    /// Requests dispatched to it and not ended.
    pub outstanding: usize,
    /// [`estimated_tokens`](crate::estimated_tokens) of those, added up.
    pub outstanding_tokens: u64,
    /// Requests ever dispatched to it; a request that failed over counts at every replica it was
    /// sent to.
    pub dispatched: u64,
    /// How many of them ended with an error of the replica's own: overloaded, shut down, model
    /// failure or panic, before or after the first event. A refusal of a wrong request is none.
    pub failed: u64,
}
