//! Who waits for whom, and who yields when the KV blocks run out.
//!
//! A policy gives a request a [`Rank`] when it is submitted; the queue is ordered by rank, equal
//! ranks by the order of submission. That is all most policies are:
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
//!
//! The rest of the trait is for those that need more, each method with a default:
//!
//! | method | who uses it | what for |
//! | --- | --- | --- |
//! | [`window`](Policy::window), [`review`](Policy::review) | [`LongestPrefix`] | ranks that change while one waits, in a queue that is short |
//! | [`patience`](Policy::patience) | [`LongestPrefix`], [`ShortestPredicted`], [`EarliestDeadline`] | nobody is overtaken for ever |
//! | [`displacing`](Policy::displacing), [`displaces`](Policy::displaces) | [`Displacing`] | a waiting one takes the place of a running one |
//! | [`victim`](Policy::victim) | all | whose blocks are taken |
//! | [`served`](Policy::served) | [`ShortestPredicted`] | learning from what was served |
//!
//! Fairness between tenants is not a policy: it chooses whose turn it is, and the policy orders
//! the requests of one tenant. See [`Fairness`](crate::Fairness).

mod candidate;
mod deadline;
mod displacing;
mod fcfs;
mod guarded;
mod prefix;
mod priority;
mod shortest;

pub use candidate::{Candidate, last_in_rank, least_lost};
pub use deadline::EarliestDeadline;
pub use displacing::Displacing;
pub use fcfs::Fcfs;
pub(crate) use guarded::Guarded;
pub use prefix::LongestPrefix;
pub use priority::Priority;
pub use shortest::{MaxNewTokens, Predictor, ShortestPredicted, TenantMean};

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

/// A sequence that was served: it finished, was cancelled, or expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served<'a> {
    /// Who asked.
    pub tenant: Option<&'a str>,
    /// Tokens it was submitted with.
    pub prompt: usize,
    /// Tokens it generated.
    pub generated: usize,
}

impl<'a> Served<'a> {
    /// What became of a request, for tests of a policy.
    pub fn new(tenant: Option<&'a str>, prompt: usize, generated: usize) -> Self {
        Self {
            tenant,
            prompt,
            generated,
        }
    }
}

/// An order of service. See the [module's page](self) for one of your own.
///
/// A policy that panics harms nobody: in [`rank`](Self::rank) the request is refused, elsewhere
/// the default of the method is taken.
pub trait Policy: Send {
    /// The request's place in the queue, asked once, when it is submitted.
    fn rank(&self, request: &SchedRequest) -> Rank;

    /// The longest queue whose requests are [reviewed](Self::review) before they are admitted;
    /// in a longer one the ranks of the submission hold. Asked once. Default 0: no reviews.
    ///
    /// A review of a request costs one lookup of its prefix. Reviews are made in plans that can
    /// admit somebody, and only after somebody was admitted, preempted or ended.
    fn window(&self) -> usize {
        0
    }

    /// The place of a waiting request as things are now; [`Candidate::cached`] says what of it an
    /// admission would find. Default: the rank it has.
    fn review(&self, waiting: &Candidate) -> Rank {
        waiting.rank
    }

    /// How often a waiting request may be overtaken by one that came later. After that it is next.
    /// Asked once. Default none: the rank is all that counts.
    ///
    /// With `w` requests before it (of the same tenant, where fairness is on) one is thus admitted
    /// after at most `w + patience` others. Preempted ones that resume do not count.
    fn patience(&self) -> Option<usize> {
        None
    }

    /// Whether [`displaces`](Self::displaces) is worth asking at all: a plan in which nobody can be
    /// admitted then looks at every running sequence. Asked once. Default no.
    fn displacing(&self) -> bool {
        false
    }

    /// Whether a waiting request of rank `waiting`, for which there are no seats or no blocks, may
    /// take those of `running`, which is then preempted. Default no. A sequence that has been
    /// preempted [three times](crate::MAX_PREEMPTIONS) is left alone whatever is said here. Asked
    /// before its [`gain`](Candidate::gain) and what of it is [`cached`](Candidate::cached) are
    /// known: both are 0 here.
    fn displaces(&self, _waiting: Rank, _running: &Candidate) -> bool {
        false
    }

    /// Whose blocks are taken when a running sequence needs blocks and there are none: an index
    /// into `candidates`, the running sequences. The one in need is among them.
    ///
    /// `None`, or an index that does not exist, leaves it to [`least_lost`], which is also the
    /// default. Whatever is chosen should rank behind those it yields to; a victim that is
    /// admitted again before them takes its blocks back.
    fn victim(&self, candidates: &[Candidate]) -> Option<usize> {
        least_lost(candidates)
    }

    /// A sequence was served. Default: nothing is learnt from it.
    fn served(&mut self, _served: &Served<'_>) {}
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn rank(&self, request: &SchedRequest) -> Rank {
        (**self).rank(request)
    }

    fn window(&self) -> usize {
        (**self).window()
    }

    fn review(&self, waiting: &Candidate) -> Rank {
        (**self).review(waiting)
    }

    fn patience(&self) -> Option<usize> {
        (**self).patience()
    }

    fn displacing(&self) -> bool {
        (**self).displacing()
    }

    fn displaces(&self, waiting: Rank, running: &Candidate) -> bool {
        (**self).displaces(waiting, running)
    }

    fn victim(&self, candidates: &[Candidate]) -> Option<usize> {
        (**self).victim(candidates)
    }

    fn served(&mut self, served: &Served<'_>) {
        (**self).served(served);
    }
}
