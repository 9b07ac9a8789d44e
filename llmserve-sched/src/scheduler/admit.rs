//! The second half of a plan: rows for those who wait.

use llmserve_core::{Admission, KvError, KvManager, StepPlan};

use super::ContinuousScheduler;
use super::queue::Place;
use super::running::Left;

/// What became of the one whose turn it was.
enum Turn {
    /// It runs, with a row of so many tokens.
    Admitted(usize),
    /// It cannot have a row in this step, and loses nothing if those behind it do.
    Passed,
    /// It could, with more of what is scarce; those behind it wait with it.
    Blocked,
}

impl ContinuousScheduler {
    /// Admits from the front of the queue while there are tokens, seats and blocks. The first that
    /// does not fit holds up the rest, so that nobody is overtaken for ever.
    pub(super) fn plan_waiting(
        &mut self,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        mut left: Left,
    ) {
        let mut last = None;
        while left.budget > 0 && self.seats < self.config.max_num_seqs {
            let Some(place) = self.queue.after(last.as_ref()) else {
                break;
            };
            match self.admit(place, kv, plan, &mut left) {
                Turn::Admitted(tokens) => left.budget -= tokens,
                Turn::Passed => {}
                Turn::Blocked => break,
            }
            last = Some(place);
        }
    }

    fn admit(
        &mut self,
        place: Place,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) -> Turn {
        let (slot, running) = (place.slot, !self.ring.is_empty());
        let Some(sequence) = self.table.at_mut(slot) else {
            return Turn::Passed;
        };
        // A result in flight from before a preemption comes first: then all tokens are known.
        if !sequence.is_ready() || !sequence.flight.is_empty() {
            return Turn::Passed;
        }
        if self.seats + sequence.seats > self.config.max_num_seqs {
            return Turn::Blocked;
        }
        let available = kv.available();
        if running && matches!(self.blocked, Some((at, had)) if at == place && available <= had) {
            return Turn::Blocked;
        }
        let (id, known, max_chunk) = (sequence.id, sequence.known, sequence.max_chunk);
        let hit = kv.prefix(id).tokens.min(known - 1);
        let len = self.config.row_len(known - hit, max_chunk, left.budget);
        if len == 0 {
            return Turn::Blocked;
        }
        let reserve = match place.newcomer && running {
            true => watermark(self.config.watermark, kv),
            false => 0,
        };
        // All its tokens must fit, whatever the chunk, beside what others have yet to take.
        let needed = kv.demand(id, known);
        let allocated = match needed {
            Ok(needed) if needed + left.owed + reserve > available => {
                self.blocked = Some((place, available));
                return Turn::Blocked;
            }
            Ok(_) => kv.allocate(id, hit + len),
            Err(error) => Err(error),
        };
        let cached = match allocated {
            Ok(cached) => cached.min(known - 1),
            Err(KvError::OutOfBlocks(_)) => return Turn::Blocked,
            Err(error) => {
                // It must not stop the others.
                self.lose(id, error);
                self.forget(slot);
                kv.close(id);
                return Turn::Passed;
            }
        };
        let len = len.min(known - cached);
        let resumed = sequence.resumed;
        sequence.running = true;
        sequence.resumed = true;
        sequence.computed = cached;
        sequence.sealed = cached;
        sequence.plan_row(len, self.step, plan);
        left.owed += sequence.owed(kv.layout().block_size.max(1));
        self.seats += sequence.seats;
        self.queue.remove(&place);
        self.ring.push_back(slot);
        plan.admitted.push(Admission {
            id,
            cached_tokens: cached,
            resumed,
        });
        Turn::Admitted(len)
    }
}

/// Blocks a newcomer leaves free.
fn watermark(share: f64, kv: &dyn KvManager) -> usize {
    let total = kv.layout().blocks.iter().min().copied().unwrap_or(0);
    (share * total as f64) as usize
}
