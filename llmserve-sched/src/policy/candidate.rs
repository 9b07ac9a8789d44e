//! What a policy sees of a sequence.

use std::sync::Arc;

use llmserve_core::{SequenceId, Time};

use super::Rank;

/// A running sequence that could yield its blocks, or a waiting one that is reviewed.
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
    /// Tokens computed, rows in flight included; 0 of a waiting one.
    pub computed: usize,
    /// Tokens that need not be computed (again): of a waiting one what an admission would find in
    /// the prefix cache, of a running one what others hold as well.
    pub cached: usize,
    /// KV blocks that a preemption makes available; 0 of a waiting one.
    pub gain: usize,
    /// Tokens generated.
    pub generated: usize,
    /// How often it has been preempted.
    pub preemptions: u32,
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
            cached: 0,
            gain: 0,
            generated: 0,
            preemptions: 0,
        }
    }

    /// Tokens that a preemption makes it compute again at most: what others do not hold.
    pub fn lost(&self) -> usize {
        self.computed.saturating_sub(self.cached)
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

/// The candidate whose preemption costs least. Those that would free no block, and then those that
/// have been preempted [three times](crate::MAX_PREEMPTIONS), are spared while there are others.
/// Of the rest the highest rank yields, of equal ranks the one with the least work to
/// [lose](Candidate::lost), of equal work the one that came last. None if there is none.
///
/// ```
/// use llmserve_core::SequenceId;
/// use llmserve_sched::policy::{Candidate, Rank, least_lost};
/// let candidate = |slot, computed| {
///     let mut candidate = Candidate::new(SequenceId::new(slot, 0), Rank::new(0), slot.into());
///     (candidate.computed, candidate.gain) = (computed, 1);
///     candidate
/// };
/// let mut candidates = [candidate(0, 90), candidate(1, 20), candidate(2, 60)];
/// assert_eq!(least_lost(&candidates), Some(1));
/// candidates[1].preemptions = 3;
/// assert_eq!(least_lost(&candidates), Some(2));
/// candidates[0].cached = 80; // others hold most of it
/// assert_eq!(least_lost(&candidates), Some(0));
/// ```
pub fn least_lost(candidates: &[Candidate]) -> Option<usize> {
    let cost = |(_, candidate): &(usize, &Candidate)| {
        let Candidate { rank, order, .. } = **candidate;
        let spared = candidate.preemptions >= crate::MAX_PREEMPTIONS;
        let yields = (candidate.gain > 0, !spared, rank);
        (yields, std::cmp::Reverse(candidate.lost()), order)
    };
    let found = candidates.iter().enumerate().max_by_key(cost);
    found.map(|(index, _)| index)
}
