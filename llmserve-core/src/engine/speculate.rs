//! The engine's side of speculation: asking for drafts after a commit, and learning from what
//! became of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::core::Core;
use super::request::Sequence;
use crate::contract::clock::Time;
use crate::contract::proposer::{
    Depth, DepthAsk, Distribution, DraftAsk, MAX_DRAFT_DEPTH, ProposalReport, Proposer,
    Speculation, StepReport, Verification, Verified,
};
use crate::contract::scheduler::PlannedRow;
use crate::error::panic_message;
use crate::ids::SequenceId;

/// Rounds in a row that may fail before a proposer is not asked any more.
const MOST_FAILURES: u32 = 8;

/// What an engine that speculates keeps besides its sequences.
pub(super) struct Speculator {
    pub(super) proposer: Box<dyn Proposer>,
    pub(super) depth: Box<dyn Depth>,
    pub(super) verification: Verification,
    /// Failures in a row.
    failures: u32,
    /// Failures in all.
    pub(super) failed: u64,
    /// The depth panicked: it is not called again, and nothing is drafted any more.
    depthless: bool,
    /// Rows with drafts of the step at hand.
    pub(super) verified: Vec<Verified>,
    /// The target's distribution at the position at hand.
    pub(super) target: Distribution,
    asks: Vec<DepthAsk>,
    /// Sequences asked for, out of their slots meanwhile, with the depth of each.
    asked: Vec<(SequenceId, Box<Sequence>, usize)>,
}

impl Speculator {
    pub(super) fn new(speculation: Speculation) -> Box<Self> {
        Box::new(Self {
            proposer: speculation.proposer,
            depth: speculation.depth,
            verification: speculation.verification,
            failures: 0,
            failed: 0,
            depthless: false,
            verified: Vec::new(),
            target: Distribution::new(),
            asks: Vec::new(),
            asked: Vec::new(),
        })
    }

    /// Whether drafts are asked for at all.
    fn works(&self) -> bool {
        !self.depthless && self.failures < MOST_FAILURES
    }

    /// Calls the depth. It is a host's: one that panics ends speculation, not the engine.
    fn depth(&mut self, call: impl FnOnce(&mut dyn Depth)) {
        if self.depthless {
            return;
        }
        let called = catch_unwind(AssertUnwindSafe(|| call(&mut *self.depth)));
        if let Err(panic) = called {
            let error = panic_message(&*panic);
            tracing::warn!(error, "a depth panicked: no more drafts");
            self.depthless = true;
            self.failed += 1;
        }
    }

    /// Forgets a sequence that has ended. A proposer that panics over it is not asked again.
    pub(super) fn close(&mut self, id: SequenceId) {
        self.depth(|depth| depth.close(id));
        let closed = catch_unwind(AssertUnwindSafe(|| self.proposer.close(id)));
        if closed.is_err() {
            self.failures = MOST_FAILURES;
        }
    }
}

impl Core {
    /// Notes what became of a step's drafts.
    pub(super) fn learn(&mut self, rows: &[PlannedRow], time: Duration) {
        let Some(speculator) = &mut self.speculator else {
            return;
        };
        for verified in &speculator.verified {
            let stats = &mut self.stats;
            stats.spec_drafts += 1;
            stats.spec_draft_tokens += verified.drafted as u64;
            stats.spec_accepted_tokens += verified.accepted as u64;
            self.instruments.verified(verified);
            for count in stats
                .spec_accepted_per_pos
                .iter_mut()
                .take(verified.accepted)
            {
                *count += 1;
            }
        }
        let decodes = rows.iter().filter(|row| is_decode(row)).count();
        let verified = std::mem::take(&mut speculator.verified);
        let report = StepReport {
            decodes,
            tokens: rows.iter().map(|row| row.len).sum(),
            prefill: decodes < rows.len(),
            time,
            verified: &verified,
        };
        speculator.depth(|depth| depth.step(&report));
        speculator.verified = verified;
        speculator.verified.clear();
    }

    /// Asks for drafts for the sequences of a step that go on, and offers them to the scheduler.
    pub(super) fn propose(&mut self, rows: &[PlannedRow]) {
        let Some(mut speculator) = self.speculator.take() else {
            return;
        };
        if speculator.works() {
            self.phase = "depth of speculation";
            self.choose_depths(&mut speculator, rows);
            self.draft(&mut speculator);
            self.phase = "scheduler";
            for (id, mut sequence, depth) in speculator.asked.drain(..) {
                let drafts = sequence.draft.tokens.len().min(depth);
                sequence.draft.tokens.truncate(drafts);
                self.sequences.put_back(id, sequence);
                if drafts > 0 {
                    self.scheduler.offer(id, drafts);
                }
            }
            if !speculator.works() {
                self.instruments.depth(0.0);
            }
        }
        self.speculator = Some(speculator);
    }

    /// Takes the sequences that shall have drafts out of their slots.
    fn choose_depths(&mut self, speculator: &mut Speculator, rows: &[PlannedRow]) {
        let mut asks = std::mem::take(&mut speculator.asks);
        asks.clear();
        let mut decodes = 0;
        for row in rows.iter().filter(|row| row.samples) {
            let Some(sequence) = self.sequences.get(row.id) else {
                continue;
            };
            decodes += 1;
            let spec = &sequence.spec;
            // The last token is picked, not drafted.
            let left = spec.max_total.saturating_sub(sequence.tokens.len() + 1);
            let mut limit = left.min(spec.draft_depth).min(MAX_DRAFT_DEPTH);
            // Behind a forced run there is more than one token to compute, and no room for drafts.
            let grammar = sequence.constrained.as_ref();
            if sequence.jumped == self.steps || grammar.is_some_and(|g| !g.takes_drafts()) {
                limit = 0;
            }
            if limit > 0 {
                asks.push(DepthAsk {
                    sequence: row.id,
                    limit,
                    depth: 0,
                });
            }
        }
        if !asks.is_empty() {
            speculator.depth(|depth| depth.choose(decodes, &mut asks));
        }
        // What a depth that panicked had chosen by then counts for nothing.
        if !asks.is_empty() && speculator.works() {
            let wanted: usize = asks.iter().map(|ask| ask.depth.min(ask.limit)).sum();
            self.instruments.depth(wanted as f64 / asks.len() as f64);
            for ask in &asks {
                let depth = ask.depth.min(ask.limit);
                if depth > 0
                    && let Some(mut sequence) = self.sequences.take(ask.sequence)
                {
                    sequence.draft.clear();
                    speculator.asked.push((ask.sequence, sequence, depth));
                }
            }
        }
        speculator.asks = asks;
    }

    /// Asks the proposer, and keeps of what it says what makes sense.
    fn draft(&mut self, speculator: &mut Speculator) {
        let rejection = speculator.verification == Verification::Rejection;
        let Speculator {
            proposer, asked, ..
        } = speculator;
        if asked.is_empty() {
            return;
        }
        let mut report = ProposalReport {
            sequences: asked.len(),
            wanted: asked.iter().map(|(_, _, depth)| depth).sum(),
            longest: asked.iter().map(|(_, _, depth)| *depth).max().unwrap_or(0),
            drafted: 0,
            time: Time::ZERO,
        };
        let known: Vec<usize> = asked.iter().map(|(_, s, _)| s.tokens.len()).collect();
        let mut asks: Vec<DraftAsk<'_>> = asked
            .iter_mut()
            .map(|(id, sequence, depth)| {
                let Sequence {
                    tokens,
                    sampler,
                    spec,
                    choice,
                    draft,
                    ..
                } = &mut **sequence;
                let eos: &[_] = match spec.ignore_eos {
                    true => &[],
                    false => &self.shared.info.eos,
                };
                let ask = DraftAsk::new(*id, tokens, spec.prompt.len(), *depth, sampler)
                    .processed(*choice, &spec.processors)
                    .tenant(spec.tenant.as_deref())
                    .ends(spec.min_tokens, [eos, &spec.stop_tokens]);
                match rejection {
                    true => ask.distributions(&mut draft.distributions),
                    false => ask,
                }
            })
            .collect();
        let began = self.clock.now();
        let done = catch_unwind(AssertUnwindSafe(|| proposer.propose(&mut asks)));
        report.time = self.clock.now().saturating_sub(began);
        drop(asks);
        let failed = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic_message(&*panic)),
        };
        for ((_, sequence, _), known) in asked.iter_mut().zip(known) {
            let Sequence {
                tokens,
                draft,
                constrained,
                ..
            } = &mut **sequence;
            draft.tokens.extend(tokens.drain(known..));
            let vocab = self.shared.info.vocab_size;
            let sound = draft
                .tokens
                .iter()
                .take_while(|token| (**token as usize) < vocab);
            let sound = sound.count();
            draft.tokens.truncate(sound);
            if let Some(constrained) = constrained {
                let valid = constrained.valid_prefix(&draft.tokens);
                // One that was drawn is judged though it may not follow: what is picked in its
                // place must know that it came.
                let drawn = draft
                    .distributions
                    .get(valid)
                    .is_some_and(|q| !q.is_empty());
                draft.tokens.truncate(valid + usize::from(drawn));
            }
            if draft.distributions.len() < draft.tokens.len() {
                draft.distributions.clear();
            }
            if failed.is_some() {
                draft.clear();
            }
            report.drafted += draft.tokens.len();
        }
        match failed {
            None => speculator.failures = 0,
            Some(error) => {
                speculator.failures += 1;
                speculator.failed += 1;
                tracing::warn!(error, in_a_row = speculator.failures, "a proposer failed");
                for at in 0..speculator.asked.len() {
                    let id = speculator.asked[at].0;
                    speculator.close(id);
                }
            }
        }
        speculator.depth(|depth| depth.proposed(&report));
    }
}

/// Whether a row is one position and its drafts.
fn is_decode(row: &PlannedRow) -> bool {
    row.samples && row.len == row.drafts + 1
}
