//! Taking a running sequence's blocks away.

use llmserve_core::{KvManager, StepPlan};

use super::ContinuousScheduler;

impl ContinuousScheduler {
    /// The slot of the running sequence that yields; none if nothing runs.
    pub(super) fn victim(&mut self) -> Option<usize> {
        let running = self.ring.iter().filter_map(|slot| self.table.at(slot));
        self.candidates
            .extend(running.map(|sequence| sequence.candidate()));
        let victim = self.policy.victim(&self.candidates);
        let slot = victim.map(|index| self.candidates[index].id.slot());
        self.candidates.clear();
        slot
    }

    /// Puts a running sequence back into the queue, before the newcomers of its rank. It keeps its
    /// tokens and computes them again, less what it finds in the prefix cache. If this plan has a
    /// row of it, the row is taken out and its tokens go back to the budget.
    pub(super) fn preempt(
        &mut self,
        slot: usize,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        budget: &mut usize,
    ) {
        let Some(sequence) = self.table.at_mut(slot) else {
            return;
        };
        let (id, seats) = (sequence.id, sequence.seats);
        if sequence.planned == self.step {
            sequence.flight.retract();
            if let Some(index) = plan.rows.iter().rposition(|row| row.id == id) {
                *budget += plan.rows.remove(index).len;
            }
        }
        sequence.running = false;
        sequence.resumed = true;
        sequence.computed = 0;
        sequence.sealed = 0;
        let place = sequence.place();
        // Blocks of the row taken out will never be written, those of rows in flight will not be
        // vouched for by a commit of ours: unsealed, they lose their identity with their last
        // holder.
        let released = kv.release(id);
        self.note(released);
        self.leave_ring(slot, seats);
        self.queue.insert(place);
        self.blocked = None;
        self.preemptions += 1;
        plan.preempted.push(id);
    }
}
