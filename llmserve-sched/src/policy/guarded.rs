//! A policy whose panics stay its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use llmserve_core::SchedRequest;
use llmserve_core::error::panic_message;

use super::{Candidate, Policy, Rank, Served, least_lost};

pub(crate) struct Guarded {
    policy: Box<dyn Policy>,
    panics: u64,
    window: usize,
    patience: Option<usize>,
    displacing: bool,
}

impl Guarded {
    pub(crate) fn new(policy: Box<dyn Policy>) -> Self {
        let mut guarded = Self {
            policy,
            panics: 0,
            window: 0,
            patience: None,
            displacing: false,
        };
        guarded.window = guarded.guard(0, |policy| policy.window());
        guarded.displacing = guarded.guard(false, |policy| policy.displacing());
        guarded.patience = guarded.guard(None, |policy| policy.patience());
        guarded
    }

    /// What the policy says, or `default` where it panics.
    fn guard<T>(&mut self, default: T, ask: impl FnOnce(&mut dyn Policy) -> T) -> T {
        // Unwind safety: the scheduler's state is not in reach of the policy, and a policy that
        // left its own state broken panics again or answers oddly, both of which are harmless.
        let answer = catch_unwind(AssertUnwindSafe(|| ask(&mut *self.policy)));
        answer.unwrap_or_else(|_| {
            self.panics += 1;
            default
        })
    }

    /// Panics so far.
    pub(crate) fn panics(&self) -> u64 {
        self.panics
    }

    pub(crate) fn window(&self) -> usize {
        self.window
    }

    pub(crate) fn displacing(&self) -> bool {
        self.displacing
    }

    pub(crate) fn patience(&self) -> Option<usize> {
        self.patience
    }

    /// The request's rank, or the message of the panic.
    pub(crate) fn rank(&mut self, request: &SchedRequest) -> Result<Rank, String> {
        catch_unwind(AssertUnwindSafe(|| self.policy.rank(request))).map_err(|panic| {
            self.panics += 1;
            panic_message(&*panic)
        })
    }

    pub(crate) fn review(&mut self, waiting: &Candidate) -> Rank {
        self.guard(waiting.rank, |policy| policy.review(waiting))
    }

    pub(crate) fn displaces(&mut self, waiting: Rank, running: &Candidate) -> bool {
        self.guard(false, |policy| policy.displaces(waiting, running))
    }

    /// The victim's index; none only if there are no candidates.
    pub(crate) fn victim(&mut self, candidates: &[Candidate]) -> Option<usize> {
        self.guard(None, |policy| policy.victim(candidates))
            .filter(|index| *index < candidates.len())
            .or_else(|| least_lost(candidates))
    }

    pub(crate) fn served(&mut self, served: &Served<'_>) {
        self.guard((), |policy| policy.served(served));
    }
}
