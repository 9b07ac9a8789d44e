//! One step: plan, page operations, submit, pick, commit, propose.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::core::{Buffers, Core};
use super::request::Sequence;
use crate::contract::clock::Time;
use crate::contract::kv::PageOp;
use crate::contract::model::{Batch, BatchRow, Logits, LogitsWanted, ModelError};
use crate::contract::scheduler::{End, Fork, PlannedRow, RowOutcome};
use crate::error::{Error, panic_message};
use crate::event::{Event, Started, TokenLogprobs};
use crate::ids::{SequenceId, TokenId};
use crate::sampling::{LogitsContext, Survey, contradiction, logprobs_surveyed};

impl Core {
    /// Runs one step. False if the scheduler planned nothing.
    ///
    /// # Errors
    /// Only what ends the engine: a scheduler that breaks its contract.
    pub(super) fn step(&mut self) -> Result<bool, Error> {
        let now = self.clock.now();
        self.phase = "scheduler";
        let mut plan = std::mem::take(&mut self.buffers.plan);
        self.scheduler.plan(&mut *self.kv, now, &mut plan);
        self.phase = "engine";
        for (id, error) in &plan.lost {
            if let Some(sequence) = self.sequences.get(*id) {
                let key = sequence.request;
                self.fail(key, Error::Kv(error.clone()));
            }
        }
        for admission in plan.admitted.iter().filter(|admission| !admission.resumed) {
            let Some(sequence) = self.sequences.get(admission.id) else {
                continue;
            };
            let Some(live) = self.requests.get_mut(&sequence.request) else {
                continue;
            };
            live.admitted = Some(now);
            live.cached_tokens = admission.cached_tokens;
            tracing::debug!(parent: &live.spec.span, cached = admission.cached_tokens, "admitted");
            self.instruments.admitted(&live.spec, now);
            self.stats.prompt_tokens += live.spec.prompt.len() as u64;
        }
        let planned = !plan.rows.is_empty();
        if planned {
            self.steps += 1;
            self.assemble(&plan.rows)?;
            let began = self.speculator.is_some().then(|| self.clock.now());
            self.send_masks(&plan.rows);
            let computed = self.compute();
            self.collect_masks();
            let done = computed.and_then(|mut logits| {
                let done = self.finish_step(&plan.rows, &mut *logits);
                // A model's own drop, too, ends the step and not the engine.
                guarded("model", move || drop(logits)).and(done)
            });
            match (done, began) {
                (Err(error), _) => self.fail_step(&plan.rows, &error),
                (Ok(()), Some(began)) => {
                    let time = self.clock.now().saturating_sub(began);
                    self.learn(&plan.rows, time);
                }
                (Ok(()), None) => {}
            }
            self.stats.steps += 1;
            tracing::trace!(rows = plan.rows.len(), tokens = plan.tokens(), "step");
            let kv = self.kv.stats();
            let slots = kv.held_blocks * self.kv.layout().block_size;
            // A draft is a token, though the manager hears of it only if it comes.
            let drafts: usize = plan.rows.iter().map(|row| row.drafts).sum();
            if slots > 0 {
                self.waste_sum += kv.unused_slots.saturating_sub(drafts) as f64 / slots as f64;
            }
            self.instruments.step(plan.tokens());
            self.commit();
            self.settle_prefix();
            self.propose(&plan.rows);
        }
        plan.clear();
        self.buffers.plan = plan;
        Ok(planned)
    }

    /// Fills the batch's tokens and rows.
    fn assemble(&mut self, rows: &[PlannedRow]) -> Result<(), Error> {
        self.phase = "engine";
        let buffers = &mut self.buffers;
        buffers.tokens.clear();
        buffers.rows.clear();
        for row in rows {
            let sequence = self
                .sequences
                .get_mut(row.id)
                .ok_or_else(|| broken(row, "are of an unknown sequence"))?;
            if std::mem::replace(&mut sequence.step, self.steps) == self.steps {
                return Err(broken(row, "come on top of another row of the sequence"));
            }
            let Some(drafts) = sequence.draft.tokens.get(..row.drafts) else {
                return Err(broken(row, "have drafts that nobody offered"));
            };
            if row.drafts > 0 && (!row.samples || row.len != row.drafts + 1) {
                return Err(broken(row, "have drafts beside more than the last token"));
            }
            let end = row.start + row.len - row.drafts;
            let Some(tokens) = sequence
                .tokens
                .get(row.start..end)
                .filter(|t| !t.is_empty())
            else {
                return Err(broken(row, "do not exist"));
            };
            if row.samples != (end == sequence.tokens.len()) {
                return Err(broken(row, "sample before the last token, or not after it"));
            }
            let wants_prompt = sequence.spec.prompt_logprobs.is_some()
                && row.start < sequence.spec.prompt.len()
                && sequence.generated() == 0;
            buffers.rows.push(BatchRow {
                sequence: row.id,
                start: row.start,
                offset: buffers.tokens.len(),
                len: row.len,
                logits: match (wants_prompt || row.drafts > 0, row.samples) {
                    (true, _) => LogitsWanted::All,
                    (false, true) if !self.prefixes.is_computed_by(row.id) => LogitsWanted::Last,
                    (false, _) => LogitsWanted::None,
                },
            });
            buffers.tokens.extend_from_slice(tokens);
            buffers.tokens.extend_from_slice(drafts);
        }
        Ok(())
    }

    /// Runs the page operations and the model. A panic in there ends the step, not the engine.
    fn compute(&mut self) -> Result<Box<dyn Logits>, Error> {
        let Self {
            model, kv, buffers, ..
        } = self;
        kv.take_page_ops(&mut buffers.ops);
        let run = || {
            for op in buffers.ops.drain(..) {
                match op {
                    PageOp::Copy {
                        group,
                        from,
                        to,
                        slots,
                    } => {
                        model.pages().copy(group, from, to, slots)?;
                    }
                }
            }
            let batch = Batch {
                tokens: &buffers.tokens,
                rows: &buffers.rows,
                tables: &**kv,
            };
            let wanted = batch.logits_rows();
            let logits = model.submit(&batch)?;
            if logits.rows() < wanted {
                let rows = logits.rows();
                let text = format!("{rows} rows of logits came back, {wanted} were asked for");
                return Err(ModelError::Backend(text));
            }
            Ok(logits)
        };
        Ok(guarded("model", run)??)
    }

    /// Fails every request of a step: nothing it wrote may be hit.
    fn fail_step(&mut self, rows: &[PlannedRow], error: &Error) {
        let outcome = &mut self.buffers.outcome;
        outcome.rows.clear();
        outcome.tokens.clear();
        outcome.forks.clear();
        if let Some(speculator) = &mut self.speculator {
            speculator.verified.clear();
        }
        for row in rows {
            if let Some(sequence) = self.sequences.get(row.id) {
                let key = sequence.request;
                self.fail(key, error.clone());
            }
        }
    }

    /// Turns logits into tokens, tokens into events, and both into an outcome.
    ///
    /// # Errors
    /// Those of the model, which are the whole step's.
    fn finish_step(&mut self, rows: &[PlannedRow], logits: &mut dyn Logits) -> Result<(), Error> {
        self.phase = "engine";
        let now = self.clock.now();
        let mut next = 0;
        for (index, row) in rows.iter().enumerate() {
            let first = next;
            next += match self.buffers.rows[index].logits {
                LogitsWanted::None => 0,
                LogitsWanted::Last => 1,
                LogitsWanted::All => row.len,
            };
            if self.prefixes.is_computed_by(row.id) {
                self.finish_prefix_row(row);
                continue;
            }
            let Some(mut sequence) = self.sequences.take(row.id) else {
                continue;
            };
            let key = sequence.request;
            // A row whose request failed earlier in this step, through a sibling choice.
            if !self.requests.contains_key(&key) {
                self.sequences.put_back(row.id, sequence);
                continue;
            }
            let result = self.finish_row(row, &mut sequence, logits, first..next, now);
            self.sequences.put_back(row.id, sequence);
            match result {
                Ok(()) => {}
                Err(Broken::Request(error)) => self.fail(key, error),
                Err(Broken::Step(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Nothing is picked after a prefix.
    fn finish_prefix_row(&mut self, row: &PlannedRow) {
        let outcome = &mut self.buffers.outcome;
        outcome.rows.push(RowOutcome {
            id: row.id,
            computed: row.start + row.len,
            first_token: outcome.tokens.len(),
            new_tokens: 0,
        });
        if row.samples {
            outcome.ended.push((row.id, End::Done));
            self.prefixes.is_computed();
        }
    }

    fn finish_row(
        &mut self,
        row: &PlannedRow,
        sequence: &mut Sequence,
        logits: &mut dyn Logits,
        range: std::ops::Range<usize>,
        now: Time,
    ) -> Result<(), Broken> {
        if row.drafts > 0 {
            return self.verify_row(row, sequence, logits, range.start, now);
        }
        sequence.draft.clear();
        if range.len() == row.len {
            self.prompt_logprobs(row, sequence, logits, range.start)?;
        }
        let mut outcome = RowOutcome {
            id: row.id,
            computed: row.start + row.len,
            first_token: self.buffers.outcome.tokens.len(),
            new_tokens: 0,
        };
        if !row.samples {
            self.buffers.outcome.rows.push(outcome);
            return Ok(());
        }
        let survey = &mut self.buffers.survey;
        let last = read(logits, range.end - 1, self.shared.info.vocab_size, survey)?;
        let first_of_request = !self.start_request(sequence.request);
        // All picks before any event: a request whose row is broken fails as a whole.
        let picked = match self.forced_on_resume(sequence)? {
            Some(token) => (token, None),
            None => self.pick(sequence, last)?,
        };
        let mut siblings = Vec::new();
        if first_of_request && sequence.spec.n > 1 {
            for choice in 1..sequence.spec.n {
                let mut sibling = Box::new(self.sequence(&sequence.spec, choice));
                // It stands where its parent does.
                if let (Some(own), Some(parents)) =
                    (&mut sibling.constrained, &mut sequence.constrained)
                {
                    own.adopt(parents);
                }
                let picked = self.pick(&mut sibling, last)?;
                siblings.push((sibling, picked));
            }
        }
        let went = self.go_on(row.id, sequence, picked, now);
        outcome.new_tokens = self.buffers.outcome.tokens.len() - outcome.first_token;
        self.buffers.outcome.rows.push(outcome);
        went?;
        for (mut sibling, picked) in siblings {
            // An end is told by id, so the slot comes first.
            let child = self.sequences.reserve();
            let first = self.buffers.outcome.tokens.len();
            let began = self.go_on(child, &mut sibling, picked, now);
            let own = self.buffers.outcome.tokens.split_off(first);
            let max_new_tokens = sequence.spec.max_total - sibling.tokens.len();
            self.sequences.put_back(child, sibling);
            if !matches!(began, Ok(false)) {
                // It never came to scheduler or KV, whatever the outcome says of it.
                self.sequences.remove(child);
                began?;
                continue;
            }
            self.buffers.outcome.forks.push(Fork {
                parent: row.id,
                child,
                tokens: own,
                max_new_tokens,
            });
            if let Some(live) = self.requests.get_mut(&sequence.request) {
                live.sequences.push(child);
            }
        }
        Ok(())
    }

    /// Appends a picked token and what must follow it. True if the sequence ended.
    ///
    /// # Errors
    /// What ends the request.
    fn go_on(
        &mut self,
        id: SequenceId,
        sequence: &mut Sequence,
        picked: (TokenId, Option<TokenLogprobs>),
        now: Time,
    ) -> Result<bool, Error> {
        self.buffers.outcome.tokens.push(picked.0);
        Ok(self.emit(id, sequence, picked, now)? || self.jump(id, sequence, now)?)
    }

    /// Marks a request's prompt as computed; true if it was already.
    fn start_request(&mut self, key: u64) -> bool {
        let Some(live) = self.requests.get_mut(&key) else {
            return true;
        };
        if !live.started {
            live.started = true;
            let prompt_logprobs = live
                .spec
                .prompt_logprobs
                .map(|_| Arc::from(std::mem::take(&mut live.prompt_logprobs)));
            live.outbox.push(Event::Started(Started {
                prompt_ids: live.spec.prompt.clone(),
                prompt_logprobs,
            }));
            return false;
        }
        true
    }

    /// The next token of a sequence, with its logprobs if asked for. `row` has just been
    /// [`read`].
    pub(super) fn pick(
        &mut self,
        sequence: &mut Sequence,
        row: &[f32],
    ) -> Result<(TokenId, Option<TokenLogprobs>), Error> {
        let spec = &sequence.spec;
        let buffers = &mut self.buffers;
        buffers.forbidden.clear();
        if sequence.tokens.len() - spec.prompt.len() < spec.min_tokens {
            if !spec.ignore_eos {
                buffers.forbidden.extend_from_slice(&self.shared.info.eos);
            }
            buffers.forbidden.extend_from_slice(&spec.stop_tokens);
        }
        let vocab_size = self.shared.info.vocab_size;
        let allowed = match &mut sequence.constrained {
            None => None,
            Some(grammar) => {
                let (eos, forbidden) = (&self.shared.info.eos, &mut buffers.forbidden);
                let allowed = grammar.allowed(forbidden, eos, spec.ignore_eos, vocab_size)?;
                // The mask is without them.
                forbidden.clear();
                Some(allowed)
            }
        };
        let context = LogitsContext::new(&sequence.tokens, spec.prompt.len(), sequence.choice)
            .allowed(allowed);
        let token = sequence.sampler.pick_surveyed(
            &context,
            &spec.processors,
            row,
            &buffers.survey,
            &buffers.forbidden,
            &mut buffers.scratch,
        )?;
        Ok((token, self.logprobs(sequence, row, token)?))
    }

    /// The logprobs of a picked token, if asked for. `row` has just been [`read`].
    pub(super) fn logprobs(
        &mut self,
        sequence: &Sequence,
        row: &[f32],
        token: TokenId,
    ) -> Result<Option<TokenLogprobs>, Error> {
        let position = sequence.tokens.len() - 1;
        let (survey, scratch) = (&self.buffers.survey, &mut self.buffers.scratch);
        let told = sequence
            .spec
            .logprobs
            .map(|k| logprobs_surveyed(position, row, survey, token, k, scratch));
        told.transpose()
    }

    /// Logprobs of the prompt tokens that this row's logits predict.
    fn prompt_logprobs(
        &mut self,
        row: &PlannedRow,
        sequence: &Sequence,
        logits: &mut dyn Logits,
        first: usize,
    ) -> Result<(), Broken> {
        let Some(k) = sequence.spec.prompt_logprobs else {
            return Ok(());
        };
        let Some(live) = self.requests.get_mut(&sequence.request) else {
            return Ok(());
        };
        for step in 0..row.len {
            // Position p predicts the token at p + 1. A preempted prompt is computed again: what
            // was told once is not told twice.
            let predicted = row.start + step + 1;
            if predicted < sequence.spec.prompt.len() && live.prompt_logprobs.len() == predicted - 1
            {
                let token = sequence.spec.prompt[predicted];
                let Buffers {
                    survey, scratch, ..
                } = &mut self.buffers;
                let row = read(logits, first + step, self.shared.info.vocab_size, survey)?;
                live.prompt_logprobs.push(logprobs_surveyed(
                    predicted - 1,
                    row,
                    survey,
                    token,
                    k,
                    scratch,
                )?);
            }
        }
        Ok(())
    }
}

/// What a failure reaches.
pub(super) enum Broken {
    Request(Error),
    Step(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Broken::Request(error)
    }
}

/// A row of logits, and its survey. A model that fails or panics here has failed the step: its
/// other rows may be as wrong, and so is what it wrote for those that want no logits.
pub(super) fn read<'a>(
    logits: &'a mut dyn Logits,
    index: usize,
    vocab_size: usize,
    survey: &mut Survey,
) -> Result<&'a [f32], Broken> {
    let row = guarded("model", || {
        logits.survey(index, survey)?;
        logits.row(index)
    });
    let row = row.and_then(|row| Ok(row?));
    let row = row.map_err(Broken::Step)?;
    if row.len() != vocab_size {
        let len = row.len();
        let text = format!("a row of {len} logits for a vocabulary of {vocab_size}");
        return Err(Broken::Step(Error::Model(ModelError::Backend(text))));
    }
    // Reading every logit again is what a survey saves: where speed counts, its length must do.
    let right = if cfg!(debug_assertions) {
        survey.is_of(row)
    } else {
        survey.greatest().len() == row.len().div_ceil(Survey::BLOCK)
    };
    if right {
        Ok(row)
    } else {
        Err(Broken::Step(contradiction()))
    }
}

/// Runs a part's code; its panic becomes an error.
fn guarded<T>(part: &'static str, run: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| Error::Panicked {
        part,
        message: panic_message(&*panic),
    })
}

fn broken(row: &PlannedRow, what: &str) -> Error {
    let text = format!(
        "the scheduler planned {:?} positions {}..{}, which {what}",
        row.id,
        row.start,
        row.start + row.len
    );
    Error::Model(ModelError::InvalidBatch(text))
}
