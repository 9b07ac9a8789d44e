//! The first half of a plan: rows for those who run.

use llmserve_core::{KvError, KvManager, PlannedRow, StepPlan};

use super::ContinuousScheduler;
use super::sequence::Sequence;
use crate::config::SchedulerConfig;

/// What running sequences left of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// Tokens.
    pub(super) budget: usize,
    /// Blocks that prompts in the middle of their prefill have yet to take.
    pub(super) owed: usize,
    /// Some of those prompts, by slot.
    pub(super) prefilling: [Option<usize>; 4],
    /// Some of those whose rows are shorter than they could be, for the sake of others.
    pub(super) cut: [Option<usize>; 4],
}

impl Left {
    /// Takes note of a running sequence that may have more to compute than its row.
    pub(super) fn note(&mut self, sequence: &mut Sequence, block_size: usize) {
        let owed = sequence.owed(block_size);
        sequence.owed = owed;
        if owed > 0 {
            self.owed += owed;
            if let Some(free) = self.prefilling.iter_mut().find(|slot| slot.is_none()) {
                *free = Some(sequence.id.slot());
            }
        }
    }
}

impl SchedulerConfig {
    /// How much of a gap goes into a row when `budget` tokens are left; 0 if it must wait for a
    /// step that has budget for more.
    pub(super) fn row_len(&self, gap: usize, max_chunk: usize, budget: usize) -> usize {
        let threshold = self.long_prefill_threshold.unwrap_or(usize::MAX);
        let wanted = gap.min(threshold).min(max_chunk);
        if wanted <= budget {
            wanted
        } else if self.chunked_prefill || wanted > self.max_batched_tokens {
            budget
        } else {
            0
        }
    }
}

impl Sequence {
    /// Adds a row of `len` tokens to the plan of step `step`.
    pub(super) fn plan_row(&mut self, len: usize, step: u64, plan: &mut StepPlan) {
        let samples = len == self.gap();
        plan.rows.push(PlannedRow {
            id: self.id,
            start: self.computed,
            len,
            samples,
            drafts: 0,
        });
        self.computed += len;
        self.flight.push(samples);
        self.planned = step;
        self.row_len = len;
    }

    /// Makes its row in the plan at hand, which did not reach its last token, `len` tokens long.
    fn lengthen(&mut self, len: usize, row: &mut PlannedRow) {
        let more = len - row.len;
        row.samples = more == self.gap();
        row.len = len;
        self.computed += more;
        self.flight.retract();
        self.flight.push(row.samples);
        self.row_len = len;
    }

    /// Blocks it has yet to take for tokens that are known.
    pub(super) fn owed(&self, block_size: usize) -> usize {
        let blocks = |tokens: usize| tokens.div_ceil(block_size);
        blocks(self.known).saturating_sub(blocks(self.computed))
    }
}

impl ContinuousScheduler {
    /// Every running sequence takes its gap from the budget, in admission order. When the budget
    /// ends before the ring does, the next plan begins where this one stopped, so that each is
    /// served within one round.
    pub(super) fn plan_running(&mut self, kv: &mut dyn KvManager, plan: &mut StepPlan) -> Left {
        let block_size = kv.layout().block_size.max(1);
        let mut left = Left {
            budget: self.config.max_batched_tokens,
            owed: 0,
            prefilling: [None; 4],
            cut: [None; 4],
        };
        let mut for_prompts = self.for_prompts();
        // While they are at hand: whoever waits will be looked at again.
        let expects = self.reserve.is_behind(self.departures)
            && self.queue.len() > 0
            && self.could_seat()
            && self.reserve.begin(self.step, self.departures);
        let mut expected = 0;
        self.cursor = self.turn.take().or_else(|| self.ring.first());
        while let Some(slot) = self.cursor {
            let Some(sequence) = self.table.at_mut(slot) else {
                break;
            };
            if sequence.visited == self.step {
                break;
            }
            if left.budget == 0 {
                self.next_turn.get_or_insert(slot);
                break;
            }
            sequence.visited = self.step;
            sequence.owed = 0;
            if expects {
                expected += 1;
                let expect = self.reserve.expected(sequence);
                self.reserve.add(expect);
            }
            // Before the row: this one, and the next, may have to leave the ring for it.
            self.cursor = self.ring.next(slot);
            if sequence.is_ready() {
                let (gap, max_chunk) = (sequence.gap(), sequence.max_chunk);
                let most = if gap > 1 { for_prompts } else { 1 };
                if gap > most
                    && max_chunk > most
                    && let Some(free) = left.cut.iter_mut().find(|slot| slot.is_none())
                {
                    *free = Some(slot);
                }
                match self.config.row_len(gap, max_chunk.min(most), left.budget) {
                    0 => _ = self.next_turn.get_or_insert(slot),
                    len => {
                        if gap > 1 {
                            for_prompts -= len;
                        }
                        self.run_row(slot, len, kv, plan, &mut left);
                    }
                }
            }
            if let Some(sequence) = self.table.at_mut(slot).filter(|sequence| sequence.running) {
                left.note(sequence, block_size);
            }
        }
        self.turn = self.next_turn.take();
        if expects && expected < self.ring.len() {
            self.reserve.forget();
        }
        left
    }

    /// Tokens of a step that the prompts of the running may take together before the others had
    /// theirs: what is left when each of the others has a token, and half of that while somebody
    /// waits. However long a prompt is, those who decode miss no step for it, and who comes after
    /// it waits for one.
    fn for_prompts(&mut self) -> usize {
        if !self.config.chunked_prefill {
            return usize::MAX;
        }
        let others = self.ring.len().saturating_sub(1);
        let left = self.config.max_batched_tokens.saturating_sub(others);
        let somebody_waits = self.queue.len() > 0 && self.could_seat();
        (if somebody_waits { left / 2 } else { left }).max(1)
    }

    /// What newcomers left of the budget goes to running prompts that were cut short for them.
    pub(super) fn plan_rest(
        &mut self,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) {
        // Those who have no row yet come first.
        let has_row = |slot: &usize| {
            let sequence = self.table.at(*slot);
            sequence.is_some_and(|sequence| sequence.planned == self.step)
        };
        left.cut
            .sort_by_key(|slot| slot.is_none_or(|slot| has_row(&slot)));
        for slot in left.cut.into_iter().flatten() {
            let Some(sequence) = self.table.at_mut(slot) else {
                continue;
            };
            if left.budget == 0 || !sequence.running || !sequence.is_ready() {
                continue;
            }
            let had = if sequence.planned == self.step {
                sequence.row_len
            } else {
                0
            };
            let len =
                self.config
                    .row_len(had + sequence.gap(), sequence.max_chunk, had + left.budget);
            if len <= had
                || kv
                    .allocate(sequence.id, sequence.computed + len - had)
                    .is_err()
            {
                continue;
            }
            left.budget -= len - had;
            if had == 0 {
                sequence.plan_row(len, self.step, plan);
                // Rows of newcomers stay the last.
                let newcomers = plan.admitted.len();
                let at = plan.rows.len() - newcomers - 1;
                plan.rows[at..].rotate_right(1);
            } else if let Some(row) = plan.rows.iter_mut().rfind(|row| row.id == sequence.id) {
                sequence.lengthen(len, row);
            }
            let owed = sequence.owed(kv.layout().block_size.max(1));
            left.owed -= std::mem::replace(&mut sequence.owed, owed) - owed;
        }
    }

    /// Gives a running sequence a row, taking blocks from others if there are none left. It may
    /// have to give up its own: then it does not run any more.
    fn run_row(
        &mut self,
        slot: usize,
        len: usize,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) {
        while let Some(sequence) = self.table.at_mut(slot).filter(|sequence| sequence.running) {
            match kv.allocate(sequence.id, sequence.computed + len) {
                Ok(_) => {
                    sequence.plan_row(len, self.step, plan);
                    left.budget -= len;
                    return;
                }
                Err(KvError::OutOfBlocks(_)) => {
                    let victim = self.victim(kv).unwrap_or(slot);
                    self.preempt(victim, kv, plan, left);
                }
                Err(error) => {
                    // It must not stop the others.
                    let id = sequence.id;
                    self.lose(id, error);
                    self.forget(slot);
                    kv.close(id);
                }
            }
        }
    }
}
