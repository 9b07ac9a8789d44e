//! Who loses a seat, or blocks, to one that waits.
//!
//! One of a lower rank, if the policy displaces; and where tenants have shares, one of a tenant
//! that has more than its share, for a tenant that has less. A tenant takes up to its own share,
//! and only from those who have more than theirs; so two tenants do not take from each other in
//! turns.

use llmserve_core::{KvManager, StepPlan};

use super::ContinuousScheduler;
use super::queue::{LineId, Place};
use super::running::Left;
use crate::policy::Candidate;

/// What one that waits lacks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lack {
    /// Seats more than are free.
    pub(super) seats: usize,
    /// Blocks more than are free, with those kept for others.
    pub(super) blocks: usize,
    /// Blocks it needs itself.
    pub(super) needed: usize,
}

/// What tenants have.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// The plan, and the change within it, after which blocks were counted.
    counted: (u64, u64),
    /// Blocks that each line's running sequences hold, or have yet to take for their prompts.
    blocks: Vec<usize>,
    /// Scratch: seats and blocks that each line has beyond its share.
    excess: Vec<(usize, usize)>,
}

impl ContinuousScheduler {
    /// Whether a tenant may have a claim on somebody's seat.
    pub(super) fn could_claim(&mut self) -> bool {
        self.reclaims && self.unclaimed != self.changes && self.queue.is_unequal()
    }

    /// Preempts one of those that a waiting one may displace by its rank, if all of them together
    /// would make room. False if nobody was.
    pub(super) fn displace(
        &mut self,
        place: Place,
        lack: Lack,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) -> bool {
        let mut candidates = std::mem::take(&mut self.candidates);
        let block_size = kv.layout().block_size.max(1);
        for slot in self.ring.iter() {
            let Some(sequence) = self.table.at(slot) else {
                continue;
            };
            if !sequence.may_yield(self.step, block_size, plan) {
                continue;
            }
            let seen = sequence.seen();
            // The policy first: what a preemption frees takes a walk along the blocks.
            if self.policy.displaces(place.rank, &seen) {
                candidates.push(sequence.with_gain(seen, kv));
            }
        }
        self.candidates = candidates;
        self.take_from_candidates(place, lack, kv, plan, left)
    }

    /// Preempts one of a tenant that has more than its share, if the waiting one's tenant has less
    /// and all that such tenants have beyond their shares would make room. False if nobody was.
    pub(super) fn claim(
        &mut self,
        (line, place): (LineId, Place),
        lack: Lack,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) -> bool {
        if !self.reclaims || !self.queue.claims(line) {
            return false;
        }
        self.count_holdings(kv);
        let total = kv.layout().blocks.iter().min().copied().unwrap_or(0);
        let own = self.holdings.blocks[line] + lack.needed;
        if lack.blocks > 0 && own > self.queue.share(line, total) {
            return false;
        }
        let mut excess = std::mem::take(&mut self.holdings.excess);
        let lines = self.holdings.blocks.iter().enumerate();
        excess.extend(lines.map(|(at, held)| {
            let blocks = held.saturating_sub(self.queue.share(at, total));
            (self.queue.excess(at), blocks)
        }));
        let block_size = kv.layout().block_size.max(1);
        let mut candidates = std::mem::take(&mut self.candidates);
        // Backwards: of a tenant with one too many it is the last to come.
        for slot in self.ring.backwards() {
            let Some(sequence) = self.table.at(slot) else {
                continue;
            };
            let (seats, blocks) = &mut excess[sequence.line];
            let for_seats = lack.seats > 0 && *seats >= sequence.seats;
            let for_blocks = lack.blocks > 0 && *blocks > 0;
            if !(for_seats || for_blocks) || !sequence.may_yield(self.step, block_size, plan) {
                continue;
            }
            *seats = seats.saturating_sub(sequence.seats);
            *blocks = blocks.saturating_sub(sequence.held(kv) + sequence.owed);
            candidates.push(sequence.candidate(kv));
        }
        excess.clear();
        self.holdings.excess = excess;
        self.candidates = candidates;
        let taken = self.take_from_candidates(place, lack, kv, plan, left);
        if !taken && lack.seats > 0 && plan.admitted.is_empty() {
            self.unclaimed = self.changes;
        }
        taken
    }

    /// Preempts the policy's victim among the candidates if all of them together would make room,
    /// and forgets the candidates.
    fn take_from_candidates(
        &mut self,
        place: Place,
        lack: Lack,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) -> bool {
        let candidates = std::mem::take(&mut self.candidates);
        let kept = self.kept(place, kv);
        let (mut seats, mut blocks) = (0, 0);
        for candidate in &candidates {
            blocks += candidate.gain;
            if let Some(sequence) = self.table.at_mut(candidate.id.slot()) {
                seats += sequence.seats;
                // What it has yet to take need not be kept for it either.
                blocks += sequence.owed;
                let expected = self.reserve.expected(sequence);
                self.reserve.remove(expected);
            }
        }
        // Nor what it may generate; with nobody left nothing need be kept.
        let left_to_keep = match candidates.len() == self.ring.len() {
            true => 0,
            false => self.kept(place, kv),
        };
        for candidate in &candidates {
            if let Some(sequence) = self.table.at_mut(candidate.id.slot()) {
                let expected = self.reserve.expected(sequence);
                self.reserve.add(expected);
            }
        }
        blocks += kept.saturating_sub(left_to_keep);
        let enough = seats >= lack.seats && blocks >= lack.blocks;
        let victim = match enough {
            true => self.policy.victim(&candidates),
            false => None,
        };
        let victim = victim.map(|index| candidates[index].id.slot());
        self.candidates = candidates;
        self.candidates.clear();
        if let Some(victim) = victim {
            self.preempt(victim, kv, plan, left);
        }
        victim.is_some()
    }

    /// Of the candidates for a victim leaves those whose tenant holds more blocks than its share,
    /// unless nothing would be gained from them, or each has been preempted too often.
    pub(super) fn spare_the_modest(&mut self, kv: &dyn KvManager) {
        self.count_holdings(kv);
        let total = kv.layout().blocks.iter().min().copied().unwrap_or(0);
        let exceeds = |candidate: &Candidate| {
            let line = self.table.at(candidate.id.slot()).map(|s| s.line);
            line.is_some_and(|line| self.holdings.blocks[line] > self.queue.share(line, total))
        };
        let yields = |candidate: &Candidate| {
            candidate.gain > 0 && candidate.preemptions < crate::MAX_PREEMPTIONS
        };
        if self.candidates.iter().any(|c| yields(c) && exceeds(c)) {
            let mut candidates = std::mem::take(&mut self.candidates);
            candidates.retain(exceeds);
            self.candidates = candidates;
        }
    }

    /// How many blocks each line's running sequences hold, or have yet to take for their prompts.
    fn count_holdings(&mut self, kv: &dyn KvManager) {
        let now = (self.step, self.changes);
        if std::mem::replace(&mut self.holdings.counted, now) == now {
            return;
        }
        let held = &mut self.holdings.blocks;
        held.clear();
        held.resize(self.queue.lines(), 0);
        for slot in self.ring.iter() {
            if let Some(sequence) = self.table.at(slot) {
                held[sequence.line] += sequence.held(kv) + sequence.owed;
            }
        }
    }
}
