//! Taking a running sequence's blocks away.

use llmserve_core::{KvManager, StepPlan};

use super::ContinuousScheduler;
use super::running::Left;

impl ContinuousScheduler {
    /// The slot of the running sequence that yields; none if nothing runs. Where tenants have
    /// shares it is one of a tenant that holds more blocks than its share, if there is such a one.
    pub(super) fn victim(&mut self, kv: &dyn KvManager) -> Option<usize> {
        let running = self.ring.iter().filter_map(|slot| self.table.at(slot));
        self.candidates
            .extend(running.map(|sequence| sequence.candidate(kv)));
        if self.queue.has_shares() {
            self.spare_the_modest(kv);
        }
        let victim = self.policy.victim(&self.candidates);
        let slot = victim.map(|index| self.candidates[index].id.slot());
        self.candidates.clear();
        slot
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
        let (id, line, seats) = (sequence.id, sequence.line, sequence.seats);
        if sequence.visited == self.step {
            // It takes none of them now.
            left.owed -= std::mem::take(&mut sequence.owed);
        }
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
        self.leave_ring(slot, line, seats);
        self.enqueue(slot);
        self.preemptions += 1;
        plan.preempted.push(id);
    }
}
