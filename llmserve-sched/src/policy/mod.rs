//! Who waits for whom, and who yields when the KV blocks run out.
//!
//! A policy ranks a request once, when it is submitted; the queue is ordered by that [`Rank`],
//! equal ranks by the order of submission. A policy that decides by what changes later (a queue's
//! age, a tenant's use) cannot be expressed as a rank.
//!
//! ```
//! use llmserve_core::SchedRequest;
//! use llmserve_sched::{ContinuousScheduler, Policy, Rank};
//!
//! /// Shortest prompt first, the more important one first among equals.
//! struct ShortestPrompt;
//!
//! impl Policy for ShortestPrompt {
//!     fn rank(&self, request: &SchedRequest) -> Rank {
//!         Rank::new(request.tokens as i64).then(i64::from(request.priority))
//!     }
//! }
//!
//! let scheduler = ContinuousScheduler::builder().policy(ShortestPrompt).build()?;
//! # Ok::<(), llmserve_sched::BuildError>(())
//! ```

mod candidate;
mod fcfs;
mod guarded;
mod priority;

pub use candidate::{Candidate, last_in_rank};
pub use fcfs::Fcfs;
pub(crate) use guarded::Guarded;
pub use priority::Priority;

use llmserve_core::SchedRequest;

/// A place in the queue: lower is sooner.
///
/// ```
/// use llmserve_sched::Rank;
/// assert!(Rank::new(1).then(9) < Rank::new(2));
/// assert!(Rank::new(1) < Rank::new(1).then(1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    first: i64,
    second: i64,
}

impl Rank {
    /// Ordered by `first` alone.
    pub const fn new(first: i64) -> Self {
        Self { first, second: 0 }
    }

    /// Ordered by `second` among those of the same first number.
    pub const fn then(self, second: i64) -> Self {
        Self {
            first: self.first,
            second,
        }
    }
}

/// An order of service. See the [module's page](self) for one of your own.
///
/// A policy that panics harms nobody: in [`rank`](Self::rank) the request is refused, in
/// [`victim`](Self::victim) the default choice is made.
pub trait Policy: Send {
    /// The request's place in the queue, asked once, when it is submitted.
    fn rank(&self, request: &SchedRequest) -> Rank;

    /// Whose blocks are taken when a running sequence needs blocks and there are none: an index
    /// into `candidates`, the running sequences. The one in need is among them.
    ///
    /// `None`, or an index that does not exist, leaves it to [`last_in_rank`], which is also the
    /// default: the highest rank yields, of equal ranks the one that came last. Whatever is
    /// chosen should rank behind those it yields to; a victim that is admitted again before them
    /// takes its blocks back.
    fn victim(&self, candidates: &[Candidate]) -> Option<usize> {
        last_in_rank(candidates)
    }
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn rank(&self, request: &SchedRequest) -> Rank {
        (**self).rank(request)
    }

    fn victim(&self, candidates: &[Candidate]) -> Option<usize> {
        (**self).victim(candidates)
    }
}
