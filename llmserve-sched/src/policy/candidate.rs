//! What a policy sees of a running sequence.

use std::sync::Arc;

use llmserve_core::{SequenceId, Time};

use super::Rank;

/// A running sequence that could yield its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Who.
    pub id: SequenceId,
    /// What [`Policy::rank`](super::Policy::rank) said.
    pub rank: Rank,
    /// Number of the submission: greater came later. A forked choice counts from its fork.
    pub order: u64,
    /// The request's own priority, lower is sooner.
    pub priority: i32,
    /// Who asked.
    pub tenant: Option<Arc<str>>,
    /// When the request arrived.
    pub arrival: Time,
    /// When the answer is worthless.
    pub deadline: Option<Time>,
    /// Tokens known.
    pub tokens: usize,
    /// Tokens computed, rows in flight included: what a preemption makes it compute again, less
    /// what stays in the prefix cache.
    pub computed: usize,
    /// Tokens generated.
    pub generated: usize,
}

impl Candidate {
    /// A candidate of normal priority with nothing computed, for tests of a policy.
    pub fn new(id: SequenceId, rank: Rank, order: u64) -> Self {
        Self {
            id,
            rank,
            order,
            priority: 0,
            tenant: None,
            arrival: Time::ZERO,
            deadline: None,
            tokens: 0,
            computed: 0,
            generated: 0,
        }
    }
}

/// The candidate of the highest rank, of equal ranks the one that came last. None if there is
/// none.
///
/// ```
/// use llmserve_core::SequenceId;
/// use llmserve_sched::policy::{Candidate, Rank, last_in_rank};
/// let candidate = |slot, rank| Candidate::new(SequenceId::new(slot, 0), Rank::new(rank), slot.into());
/// let candidates = [candidate(0, 5), candidate(1, 7), candidate(2, 7), candidate(3, 5)];
/// assert_eq!(last_in_rank(&candidates), Some(2));
/// ```
pub fn last_in_rank(candidates: &[Candidate]) -> Option<usize> {
    let last = |(_, candidate): &(usize, &Candidate)| (candidate.rank, candidate.order);
    let found = candidates.iter().enumerate().max_by_key(last);
    found.map(|(index, _)| index)
}
