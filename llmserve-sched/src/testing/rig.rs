//! A scheduler and its KV manager, stepped by hand.

use llmserve_core::{
    Admission, End, Fork, KvManager, PlannedRow, PrefixScope, Refusal, RowOutcome, SchedRequest,
    Scheduler, SequenceId, StepOutcome, StepPlan, Time, TokenId,
};

use super::FakeKv;
use crate::{ContinuousScheduler, SchedulerBuilder};

/// The first owner of a slot.
pub(crate) fn id(slot: u32) -> SequenceId {
    SequenceId::new(slot, 0)
}

/// A request, changed.
pub(crate) fn with(
    mut request: SchedRequest,
    change: impl FnOnce(&mut SchedRequest),
) -> SchedRequest {
    change(&mut request);
    request
}

pub(crate) struct Rig {
    /// When plans are asked for.
    pub(crate) now: Time,
    pub(crate) kv: FakeKv,
    pub(crate) scheduler: ContinuousScheduler,
    pub(crate) plan: StepPlan,
    pub(crate) outcome: StepOutcome,
}

impl Rig {
    /// Blocks of 16 tokens, and nothing reserved for what may be generated: most tests are about
    /// something else, in caches that are just large enough.
    pub(crate) fn new(builder: SchedulerBuilder, blocks: usize) -> Self {
        Self::caching(builder, blocks, false)
    }

    pub(crate) fn caching(builder: SchedulerBuilder, blocks: usize, caching: bool) -> Self {
        Self::as_built(builder.reservation(None), blocks, caching)
    }

    /// With the reservation that the builder says.
    pub(crate) fn as_built(builder: SchedulerBuilder, blocks: usize, caching: bool) -> Self {
        Self {
            now: Time::ZERO,
            kv: FakeKv::new(blocks, 16, caching),
            scheduler: builder.build().expect("valid options"),
            plan: StepPlan::default(),
            outcome: StepOutcome::default(),
        }
    }

    /// A prompt that shares nothing with others.
    pub(crate) fn submit(&mut self, slot: u32, tokens: usize, max_new: usize) {
        self.try_submit(SchedRequest::new(id(slot), tokens, max_new))
            .expect("accepted");
    }

    pub(crate) fn try_submit(&mut self, request: SchedRequest) -> Result<(), Refusal> {
        let first = 1000 * (request.id.slot() as TokenId + 1);
        let prompt: Vec<_> = (first..).take(request.tokens).collect();
        self.submit_prompt(request, &prompt)
    }

    pub(crate) fn submit_prompt(
        &mut self,
        request: SchedRequest,
        prompt: &[TokenId],
    ) -> Result<(), Refusal> {
        let id = request.id;
        let opened = self.kv.open(id, prompt, PrefixScope::default()).is_ok();
        let submitted = self.scheduler.submit(request, &self.kv);
        if submitted.is_err() && opened {
            self.kv.close(id);
        }
        submitted
    }

    /// The next plan's rows as (slot, tokens).
    pub(crate) fn plan(&mut self) -> Vec<(usize, usize)> {
        self.scheduler.plan(&mut self.kv, self.now, &mut self.plan);
        self.plan
            .rows
            .iter()
            .map(|row| (row.id.slot(), row.len))
            .collect()
    }

    pub(crate) fn admitted(&self) -> Vec<usize> {
        let slot = |admission: &Admission| admission.id.slot();
        self.plan.admitted.iter().map(slot).collect()
    }

    pub(crate) fn preempted(&self) -> Vec<usize> {
        self.plan.preempted.iter().map(|id| id.slot()).collect()
    }

    /// An outcome of `rows`, each that samples with one token.
    pub(crate) fn outcome_of(rows: &[PlannedRow]) -> StepOutcome {
        let mut outcome = StepOutcome::default();
        for row in rows {
            outcome.rows.push(RowOutcome {
                id: row.id,
                computed: row.start + row.len,
                first_token: outcome.tokens.len(),
                new_tokens: usize::from(row.samples),
            });
            outcome
                .tokens
                .extend(row.samples.then_some(row.id.slot() as TokenId));
        }
        outcome
    }

    /// Commits the last plan, and what was put into `outcome` by hand.
    pub(crate) fn commit(&mut self) {
        let by_hand = std::mem::take(&mut self.outcome);
        let outcome = StepOutcome {
            forks: by_hand.forks,
            ended: by_hand.ended,
            ..Self::outcome_of(&self.plan.rows)
        };
        self.scheduler.commit(&outcome, &mut self.kv);
    }

    /// Plans and commits.
    pub(crate) fn step(&mut self) -> Vec<(usize, usize)> {
        let rows = self.plan();
        self.commit();
        rows
    }

    /// Ends a sequence at once, between steps.
    pub(crate) fn end(&mut self, slot: u32, end: End) {
        let ended = vec![(id(slot), end)];
        let outcome = StepOutcome {
            ended,
            ..StepOutcome::default()
        };
        self.scheduler.commit(&outcome, &mut self.kv);
    }

    pub(crate) fn fork(&mut self, parent: u32, child: u32, max_new_tokens: usize) {
        self.outcome.forks.push(Fork {
            parent: id(parent),
            child: id(child),
            tokens: vec![child],
            max_new_tokens,
        });
    }

    /// (running, waiting).
    pub(crate) fn counts(&self) -> (usize, usize) {
        let counts = self.scheduler.counts();
        (counts.running, counts.waiting)
    }

    pub(crate) fn held(&self) -> usize {
        self.kv.stats().held_blocks
    }
}
