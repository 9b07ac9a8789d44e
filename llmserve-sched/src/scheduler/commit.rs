//! Taking note of what a step did.

use llmserve_core::{End, Fork, KvManager, RowOutcome, SequenceId, StepOutcome};

use super::ContinuousScheduler;

impl ContinuousScheduler {
    /// First: what was computed is computed for certain.
    pub(super) fn seal_rows(&mut self, rows: &[RowOutcome], kv: &mut dyn KvManager) {
        self.in_flight.clear();
        for row in rows {
            let sequence = self.table.get_mut(row.id);
            // A row nobody planned: of a sequence that has ended, or of its slot's former owner.
            let Some(sequence) = sequence.filter(|sequence| !sequence.flight.is_empty()) else {
                self.in_flight.push(false);
                continue;
            };
            sequence.flight.pop();
            self.in_flight.push(true);
            if !sequence.running {
                // Preempted meanwhile: the row's blocks are gone, its token is not.
                continue;
            }
            let computed = row.computed.min(sequence.computed);
            let rejected = sequence.computed > computed && computed >= sequence.known;
            sequence.sealed = computed;
            if sequence.flight.is_empty() {
                // A host may have computed less than was planned.
                sequence.computed = computed;
            }
            let mut sealed = kv.seal(row.id, computed);
            if rejected && sequence.flight.is_empty() {
                // Beyond the tokens the manager knows: nothing but blocks goes.
                sealed = sealed.and_then(|()| kv.trim(row.id, computed));
            }
            if let Err(error) = sealed {
                self.lose(row.id, error);
            }
        }
    }

    /// Second: a choice of its own, which shares its parent's blocks as they are now.
    pub(super) fn fork(&mut self, fork: &Fork, kv: &mut dyn KvManager) {
        if !self.table.is_free(fork.child.slot()) {
            return;
        }
        let Some(parent) = self.table.get_mut(fork.parent) else {
            return;
        };
        if let Err(error) = kv.fork(fork.parent, fork.child) {
            self.lose(fork.child, error);
            return;
        }
        let own = fork.tokens.len();
        let mut child = parent.fork(fork.child, self.order, own, fork.max_new_tokens);
        self.order += 1;
        self.queue.join_line(child.line);
        let running = parent.running;
        if parent.seats > 1 {
            parent.seats -= 1;
            self.seats -= usize::from(running);
            self.queue.rise(child.line, usize::from(running));
        }
        child.computed = parent.sealed;
        child.sealed = parent.sealed;
        let appended = kv.append(fork.child, &fork.tokens);
        self.note(appended);
        let slot = fork.child.slot();
        self.queue.generated(child.line, own);
        if running && self.seats < self.config.max_num_seqs {
            child.running = true;
        } else {
            // Its parent was preempted, or it was not announced: it waits like one preempted.
            child.computed = 0;
            child.sealed = 0;
            let released = kv.release(fork.child);
            self.note(released);
        }
        let runs = child.running;
        self.table.insert(child);
        match runs {
            true => self.join_ring(slot),
            false => self.enqueue(slot),
        }
    }

    /// Third: the new tokens. A sequence that has its first token has forked if it ever will, so
    /// the seats it held for its choices are free.
    pub(super) fn append_tokens(
        &mut self,
        rows: &[RowOutcome],
        outcome: &StepOutcome,
        kv: &mut dyn KvManager,
    ) {
        for (index, row) in rows.iter().enumerate() {
            let tokens = outcome.tokens_of(row);
            if tokens.is_empty() || !self.in_flight[index] {
                continue;
            }
            let Some(sequence) = self.table.get_mut(row.id) else {
                continue;
            };
            sequence.append(tokens.len());
            self.queue.generated(sequence.line, tokens.len());
            let reserved = sequence.seats - 1;
            sequence.seats = 1;
            if sequence.running && reserved > 0 {
                let line = sequence.line;
                self.seats -= reserved;
                self.queue.rise(line, reserved);
            }
            let appended = kv.append(row.id, tokens);
            self.note(appended);
        }
    }

    /// Last: whoever has ended leaves, wherever it was.
    pub(super) fn end(&mut self, id: SequenceId, end: End, kv: &mut dyn KvManager) {
        if self.table.get(id).is_none() {
            return;
        }
        let sequence = self.forget(id.slot());
        match (end, sequence) {
            (End::Done, Some(sequence)) => {
                self.reserve
                    .ended(sequence.generated, sequence.max_new_tokens);
                self.policy.served(&sequence.served());
            }
            (End::Failed, _) => {
                let revoked = kv.revoke(id);
                self.note(revoked);
            }
            _ => {}
        }
        kv.close(id);
    }
}
