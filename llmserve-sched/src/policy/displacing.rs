//! A policy that does not wait.

use llmserve_core::SchedRequest;

use super::{Candidate, Policy, Rank, Served};

/// Another policy, and beyond it: a waiting request that finds no seat or no blocks preempts
/// running ones of a higher rank, the one with the least to lose first.
///
/// Only as many are preempted as it takes, and none if all of them together would not do. A
/// sequence that has been preempted [three times](crate::MAX_PREEMPTIONS) is not displaced. Around
/// a policy whose ranks are [reviewed](Policy::window) it displaces nobody.
///
/// ```
/// use llmserve_sched::{ContinuousScheduler, Displacing, Priority};
/// let scheduler = ContinuousScheduler::builder().policy(Displacing(Priority)).build()?;
/// # Ok::<(), llmserve_sched::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Displacing<P>(pub P);

impl<P: Policy> Policy for Displacing<P> {
    fn rank(&self, request: &SchedRequest) -> Rank {
        self.0.rank(request)
    }

    fn window(&self) -> usize {
        self.0.window()
    }

    fn review(&self, waiting: &Candidate) -> Rank {
        self.0.review(waiting)
    }

    fn patience(&self) -> Option<usize> {
        self.0.patience()
    }

    fn displacing(&self) -> bool {
        // A rank that is reviewed while one waits says nothing beside one of a submission: two
        // sequences would displace each other in turns.
        self.0.window() == 0
    }

    fn displaces(&self, waiting: Rank, running: &Candidate) -> bool {
        waiting < running.rank
    }

    fn victim(&self, candidates: &[Candidate]) -> Option<usize> {
        self.0.victim(candidates)
    }

    fn served(&mut self, served: &Served<'_>) {
        self.0.served(served);
    }
}
