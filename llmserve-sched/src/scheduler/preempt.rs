//! Taking a running sequence's blocks away.

use llmserve_core::{KvManager, StepPlan};

use super::ContinuousScheduler;
use super::queue::Place;
use super::running::Left;

impl ContinuousScheduler {
    /// The slot of the running sequence that yields; none if nothing runs.
    pub(super) fn victim(&mut self, kv: &dyn KvManager) -> Option<usize> {
        let running = self.ring.iter().filter_map(|slot| self.table.at(slot));
        self.candidates
            .extend(running.map(|sequence| sequence.candidate(kv)));
        let victim = self.policy.victim(&self.candidates);
        let slot = victim.map(|index| self.candidates[index].id.slot());
        self.candidates.clear();
        slot
    }

    /// Preempts one of those that a waiting one may displace, if all of them together would make
    /// room for `seats` and `blocks` more than there are. False if nobody was.
    pub(super) fn displace(
        &mut self,
        place: Place,
        (seats, blocks): (usize, usize),
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) -> bool {
        let mut candidates = std::mem::take(&mut self.candidates);
        let (mut free_seats, mut free_blocks, mut reserved) = (0, 0, 0);
        let block_size = kv.layout().block_size.max(1);
        for slot in self.ring.iter() {
            let Some(sequence) = self.table.at(slot) else {
                continue;
            };
            let may = sequence.is_displaceable(self.step, block_size, !plan.admitted.is_empty());
            if sequence.preemptions >= crate::MAX_PREEMPTIONS || !may {
                continue;
            }
            let candidate = sequence.candidate(kv);
            if self.policy.displaces(place.rank, &candidate) {
                free_seats += sequence.seats;
                free_blocks += candidate.gain;
                reserved += sequence.reserved;
                candidates.push(candidate);
            }
        }
        // What is kept for them need not be kept any longer; with nobody left nothing need.
        let least = self.watermark(place, kv);
        let head = self.table.at(place.slot);
        let head = head.map_or(0, |head| self.reserve.counted(head.to_come()));
        let kept = self.reserve.blocks(head, block_size).max(least);
        let left_to_keep = match candidates.len() == self.ring.len() {
            true => 0,
            false => self
                .reserve
                .blocks_without(reserved, head, block_size)
                .max(least),
        };
        free_blocks += kept.saturating_sub(left_to_keep);
        let enough = free_seats >= seats && free_blocks >= blocks;
        let victim = match enough {
            true => self.policy.victim(&candidates),
            false => None,
        };
        let victim = victim.map(|index| candidates[index].id.slot());
        candidates.clear();
        self.candidates = candidates;
        if let Some(victim) = victim {
            self.preempt(victim, kv, plan, left);
        }
        victim.is_some()
    }

    /// Puts a running sequence back into the queue, before the newcomers of its rank. It keeps its
    /// tokens and computes them again, less what it finds in the prefix cache. If this plan has a
    /// row of it, the row is taken out and its tokens go back to the budget.
    ///
    /// This is the one place where a sequence loses its blocks without ending. Were there another
    /// tier to move them to, they would be moved here and brought back by
    /// [`admit`](Self::admit).
    pub(super) fn preempt(
        &mut self,
        slot: usize,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) {
        let Some(sequence) = self.table.at_mut(slot) else {
            return;
        };
        let (id, seats, reserved) = (sequence.id, sequence.seats, sequence.reserved);
        if sequence.planned == self.step {
            sequence.flight.retract();
            if let Some(index) = plan.rows.iter().rposition(|row| row.id == id) {
                left.budget += plan.rows.remove(index).len;
            }
        }
        sequence.running = false;
        sequence.resumed = true;
        sequence.computed = 0;
        sequence.sealed = 0;
        sequence.preemptions += 1;
        sequence.preempted = self.step;
        sequence.offered = 0;
        // Blocks of the row taken out will never be written, those of rows in flight will not be
        // vouched for by a commit of ours: unsealed, they lose their identity with their last
        // holder.
        let released = kv.release(id);
        self.note(released);
        self.leave_ring(slot, seats, reserved);
        self.enqueue(slot);
        self.blocked = None;
        self.preemptions += 1;
        plan.preempted.push(id);
    }
}
