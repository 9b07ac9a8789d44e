//! The last part of a plan: drafts for the rows that decode.
//!
//! A draft is a guess, so it takes what nobody else wants: budget after every row was planned, and
//! blocks that nobody holds, that no running prefill has yet to take and in which nothing is cached.
//! Of those that cache something it takes one at most, where the sequence's own next tokens need it
//! a few steps later anyway: without it, speculation would stumble at every block's end once the
//! cache is full, as that of an engine that is left on always is. None is worth a preemption.

use llmserve_core::{KvManager, SequenceId, StepPlan};

use super::ContinuousScheduler;
use super::running::Left;

impl ContinuousScheduler {
    /// Notes that `drafts` guesses follow the last known token of a sequence.
    pub(super) fn note_offer(&mut self, id: SequenceId, drafts: usize) {
        if let Some(sequence) = self.table.get_mut(id) {
            sequence.offered = drafts;
        }
    }

    /// Lengthens the plan's decodes by the drafts offered for them.
    pub(super) fn plan_drafts(
        &mut self,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        mut left: Left,
    ) {
        let block_size = kv.layout().block_size.max(1);
        for row in &mut plan.rows {
            let Some(sequence) = self.table.get_mut(row.id) else {
                continue;
            };
            // Whatever is not taken now is a guess about the past in the next plan.
            let offered = std::mem::take(&mut sequence.offered);
            let lone = sequence.flight.len() == 1 && row.samples && row.len == 1;
            if offered == 0 || !lone {
                continue;
            }
            let most = (sequence.max_new_tokens - 1).saturating_sub(sequence.generated);
            let mut drafts = offered
                .min(most)
                .min(left.budget)
                .min(sequence.max_chunk - 1);
            let end = sequence.computed;
            let spare = kv.available().saturating_sub(left.owed);
            let blank = spare.saturating_sub(kv.stats().cached_idle_blocks);
            let most = blank.max(spare.min(1));
            match kv.demand(row.id, end + drafts) {
                Ok(demand) if demand.blocks <= most => {}
                // What is left of the last block costs nothing.
                Ok(_) => {
                    let room = end.next_multiple_of(block_size) - end + most * block_size;
                    drafts = drafts.min(room);
                }
                Err(_) => continue,
            }
            if drafts == 0 || kv.allocate(row.id, end + drafts).is_err() {
                continue;
            }
            sequence.computed += drafts;
            row.len += drafts;
            row.drafts = drafts;
            left.budget -= drafts;
        }
    }
}
