//! A policy whose panics stay its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use llmserve_core::SchedRequest;
use llmserve_core::error::panic_message;

use super::{Candidate, Policy, Rank, last_in_rank};

pub(crate) struct Guarded {
    policy: Box<dyn Policy>,
    panics: u64,
}

impl Guarded {
    pub(crate) fn new(policy: Box<dyn Policy>) -> Self {
        Self { policy, panics: 0 }
    }

    /// Panics so far.
    pub(crate) fn panics(&self) -> u64 {
        self.panics
    }

    /// The request's rank, or the message of the panic.
    pub(crate) fn rank(&mut self, request: &SchedRequest) -> Result<Rank, String> {
        // Unwind safety: the scheduler's state is not in reach of the policy, and a policy that
        // left its own state broken panics again or answers oddly, both of which are harmless.
        catch_unwind(AssertUnwindSafe(|| self.policy.rank(request))).map_err(|panic| {
            self.panics += 1;
            panic_message(&*panic)
        })
    }

    /// The victim's index; none only if there are no candidates.
    pub(crate) fn victim(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let choice = catch_unwind(AssertUnwindSafe(|| self.policy.victim(candidates)));
        let choice = choice.unwrap_or_else(|_| {
            self.panics += 1;
            None
        });
        choice
            .filter(|index| *index < candidates.len())
            .or_else(|| last_in_rank(candidates))
    }
}
