//! What the scheduler does, stated one by one, and a random workload.

mod admission;
mod budget;
mod commit;
mod drafts;
mod in_flight;
mod order;
mod policies;
mod preemption;
mod pressure;
mod random;
mod refusals;
mod shares;

use llmserve_core::SchedRequest;

use crate::{Candidate, Policy, Rank};

/// Takes the blocks of the second in line.
struct Second;

impl Policy for Second {
    fn rank(&self, _: &SchedRequest) -> Rank {
        Rank::default()
    }

    fn victim(&self, _: &[Candidate]) -> Option<usize> {
        Some(1)
    }
}
