//! Who of those that can, shall answer.

mod least_loaded;
mod round_robin;
mod turns;

pub use least_loaded::LeastLoaded;
pub use round_robin::RoundRobin;

use std::sync::Arc;

use llmserve_core::Request;

use crate::candidate::Candidate;

/// Picks the replica that shall answer a request.
///
/// Asked on the thread that calls `generate()`, and once more, on the thread that reads the
/// stream, for each failover, with the replicas that were tried left out. Several threads ask at
/// once. Quick, and without waiting for anything.
///
/// A panic ends the one request with [`Error::Panicked`](llmserve_core::Error::Panicked), its
/// part being `"routing strategy"`, and so does a pick that is no place in the list.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::{Candidate, Strategy};
///
/// /// Nobody gets more than `limit` requests at once; below it, the first in the list wins.
/// struct FillUp {
///     limit: usize,
/// }
///
/// impl Strategy for FillUp {
///     fn pick(&self, candidates: &[Candidate<'_>], _request: &Request) -> Option<usize> {
///         candidates.iter().position(|candidate| candidate.outstanding < self.limit)
///     }
/// }
///
/// let candidates = [Candidate::new(0, "a").outstanding(2), Candidate::new(1, "b")];
/// let request = Request::text("Hi");
/// assert_eq!(FillUp { limit: 2 }.pick(&candidates, &request), Some(1));
/// assert_eq!(FillUp { limit: 0 }.pick(&candidates, &request), None);
/// ```
pub trait Strategy: Send + Sync {
    /// The place in `candidates` of the one that shall answer. There is at least one candidate,
    /// and they are in the order of their [`index`](Candidate::index).
    ///
    /// None says that none of them may take the request now. It is then refused with
    /// [`Error::Overloaded`](llmserve_core::Error::Overloaded), waiting and limit both being the
    /// candidates' outstanding requests; or, when this was a failover, it ends with the error of
    /// the replica that was tried last.
    fn pick(&self, candidates: &[Candidate<'_>], request: &Request) -> Option<usize>;
}

impl<S: Strategy + ?Sized> Strategy for Arc<S> {
    fn pick(&self, candidates: &[Candidate<'_>], request: &Request) -> Option<usize> {
        (**self).pick(candidates, request)
    }
}

impl<S: Strategy + ?Sized> Strategy for Box<S> {
    fn pick(&self, candidates: &[Candidate<'_>], request: &Request) -> Option<usize> {
        (**self).pick(candidates, request)
    }
}
