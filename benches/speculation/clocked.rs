//! What the models themselves take, and how many steps of which kind there were.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use llmserve::{
    Batch, Depth, DepthAsk, FixedDepth, KvLayout, Logits, Model, ModelError, ModelInfo, PageStore,
    ProposalReport, SequenceId, StepLimits, StepReport,
};

use crate::told::lock;

/// Time inside a model's `submit`.
#[derive(Clone, Default)]
pub struct Clock(Arc<Mutex<Duration>>);

impl Clock {
    fn take(&self) -> Duration {
        std::mem::take(&mut lock(&self.0))
    }
}

/// A model whose `submit` is timed. Its work is done when that returns.
pub struct Clocked<M> {
    pub inner: M,
    pub clock: Clock,
}

impl<M: Model> Model for Clocked<M> {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
        self.inner.prepare(layout, limits)
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        let began = Instant::now();
        let logits = self.inner.submit(batch);
        *lock(&self.clock.0) += began.elapsed();
        logits
    }

    fn pages(&mut self) -> &mut dyn PageStore {
        self.inner.pages()
    }
}

/// What a run cost. Of steps that only decode.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    pub steps: usize,
    /// From a plan's end until its last pick.
    pub step_time: Duration,
    /// Of that, inside the target.
    pub target_time: Duration,
    /// Drafts of the longest in each round: passes, for a draft model.
    pub passes: usize,
    /// What rounds of drafting took.
    pub draft_time: Duration,
    /// Of that, inside the draft model.
    pub model_time: Duration,
}

/// A depth that can be replaced from outside, and keeps the totals.
#[derive(Clone)]
pub struct Switch {
    inner: Arc<Mutex<(Box<dyn Depth>, Totals)>>,
    target: Clock,
    draft: Clock,
}

impl Switch {
    /// No drafts until [`set`](Self::set); the clocks of the target and of the draft model.
    pub fn new(target: Clock, draft: Clock) -> Self {
        let depth: Box<dyn Depth> = Box::new(FixedDepth(0));
        Self {
            inner: Arc::new(Mutex::new((depth, Totals::default()))),
            target,
            draft,
        }
    }

    /// Puts another depth in, and takes the one before out.
    pub fn set(&self, depth: Box<dyn Depth>) -> Box<dyn Depth> {
        std::mem::replace(&mut lock(&self.inner).0, depth)
    }

    pub fn take(&self) -> Totals {
        std::mem::take(&mut lock(&self.inner).1)
    }
}

impl Depth for Switch {
    fn most(&self) -> usize {
        llmserve::MAX_DRAFT_DEPTH
    }

    fn choose(&mut self, decodes: usize, asks: &mut [DepthAsk]) {
        lock(&self.inner).0.choose(decodes, asks);
    }

    fn step(&mut self, report: &StepReport<'_>) {
        let mut inner = lock(&self.inner);
        inner.0.step(report);
        let inside = self.target.take();
        if !report.prefill {
            inner.1.steps += 1;
            inner.1.step_time += report.time;
            inner.1.target_time += inside;
        }
    }

    fn proposed(&mut self, report: &ProposalReport) {
        let mut inner = lock(&self.inner);
        inner.0.proposed(report);
        inner.1.passes += report.longest;
        inner.1.draft_time += report.time;
        inner.1.model_time += self.draft.take();
    }

    fn close(&mut self, sequence: SequenceId) {
        lock(&self.inner).0.close(sequence);
    }
}
