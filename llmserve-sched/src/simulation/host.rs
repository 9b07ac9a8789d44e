//! What an engine does around a scheduler, in virtual time and without a model.

use std::time::Duration;

use llmserve_core::{
    BlockEvent, End, KvManager, PageOp, PrefixScope, RowOutcome, SchedRequest, Scheduler,
    SequenceId, StepOutcome, StepPlan,
};

use super::SimulationError;
use super::cost::{CostModel, StepLoad};
use super::lives::{Live, Lives};
use super::meters::{Capacity, Ending, Level, Meters};
use super::report::Report;
use super::request::{SimulatedRequest, own_token};
use super::timers::Timers;

/// How long to wait before a scheduler that planned nothing is asked again: it may be holding
/// requests back on purpose, for a fuller batch.
const POLL: u64 = 1_000_000;
/// How long it is asked before it is called stuck: a minute.
const PATIENCE: u64 = 60_000_000_000;
/// The end of time; leaves room to add to it.
const NEVER: u64 = u64::MAX / 4;

pub(super) struct Host<'a> {
    scheduler: &'a mut dyn Scheduler,
    kv: &'a mut dyn KvManager,
    cost: &'a dyn CostModel,
    /// Nanoseconds since the beginning.
    now: u64,
    /// Requests so far.
    number: u32,
    lives: Lives,
    timers: Timers,
    meters: Meters,
    blocks: usize,
    // Kept for their memory.
    plan: StepPlan,
    outcome: StepOutcome,
    prompt: Vec<u32>,
    ops: Vec<PageOp>,
    events: Vec<BlockEvent>,
}

impl<'a> Host<'a> {
    pub(super) fn new(
        scheduler: &'a mut dyn Scheduler,
        kv: &'a mut dyn KvManager,
        cost: &'a dyn CostModel,
        window: Duration,
    ) -> Self {
        let blocks = kv.layout().blocks.iter().min().copied().unwrap_or(0);
        let capacity = Capacity {
            budget: scheduler.max_batched_tokens(),
            seats: scheduler.max_num_seqs(),
            blocks,
        };
        Self {
            scheduler,
            kv,
            cost,
            now: 0,
            number: 0,
            lives: Lives::default(),
            timers: Timers::default(),
            meters: Meters::new(capacity, nanos(window).max(1)),
            blocks,
            plan: StepPlan::default(),
            outcome: StepOutcome::default(),
            prompt: Vec::new(),
            ops: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(super) fn run(
        mut self,
        requests: impl Iterator<Item = SimulatedRequest>,
    ) -> Result<Report, SimulationError> {
        let counts = self.scheduler.counts();
        if counts.running + counts.waiting > 0 {
            return Err(SimulationError::Busy {
                running: counts.running,
                waiting: counts.waiting,
            });
        }
        let mut requests = requests.peekable();
        self.now = requests.peek().map_or(0, |first| nanos(first.arrival));
        self.meters.began = self.now;
        // Since when there were requests and nothing was planned.
        let (mut last, mut idle) = (0, None);
        loop {
            while let Some(request) = requests.next_if(|next| nanos(next.arrival) <= self.now) {
                let arrival = nanos(request.arrival);
                if arrival < last {
                    return Err(SimulationError::OutOfOrder { index: self.number });
                }
                last = arrival;
                self.accept(request)?;
            }
            self.end_the_due();
            if self.step() {
                idle = None;
                continue;
            }
            let arrival = requests.peek().map(|next| nanos(next.arrival));
            if self.lives.len() == 0 {
                idle = None;
                match arrival {
                    Some(arrival) => self.now = self.now.max(arrival),
                    None => return Ok(self.meters.report(self.now)),
                }
                continue;
            }
            let since = *idle.get_or_insert(self.now);
            if self.now - since >= PATIENCE || self.now >= NEVER {
                let counts = self.scheduler.counts();
                return Err(SimulationError::Stuck {
                    at: Duration::from_nanos(self.now),
                    running: counts.running,
                    waiting: counts.waiting,
                });
            }
            let due = self.timers.next(|id| self.lives.is_alive(id));
            let next = [arrival, due].into_iter().flatten().min();
            let poll = (self.now + POLL).min(since + PATIENCE);
            self.now = next.unwrap_or(NEVER).min(poll).max(self.now);
        }
    }

    /// A request comes.
    fn accept(&mut self, request: SimulatedRequest) -> Result<(), SimulationError> {
        let tenant = self.meters.tenant(&request.tenant);
        let number = self.number;
        self.number = number.wrapping_add(1);
        let prompt = request.prompt_tokens.max(1);
        let (output, most) = request.outputs();
        let fits = self.kv.layout().capacity_tokens().min(u32::MAX as usize);
        if prompt.saturating_add(most) > fits {
            self.meters.ended(tenant, Ending::TooLong);
            return Ok(());
        }
        request.prompt(number, &mut self.prompt);
        let id = self.lives.next_id();
        self.kv.open(id, &self.prompt, PrefixScope::default())?;
        let after = |wait: Duration| nanos(request.arrival.saturating_add(wait)).min(NEVER);
        let deadline = request.deadline.map(after);
        let cancel = request.cancel.map(after);
        let arrival = nanos(request.arrival);
        let mut submitted = SchedRequest::new(id, prompt, most);
        submitted.priority = request.priority;
        submitted.tenant = request.tenant;
        submitted.arrival = Duration::from_nanos(arrival);
        submitted.deadline = deadline.map(Duration::from_nanos);
        if self.scheduler.submit(submitted, &*self.kv).is_err() {
            self.kv.close(id);
            self.lives.give_back(id);
            self.meters.ended(tenant, Ending::Refused);
            return Ok(());
        }
        self.meters.tokens.prompt += prompt as u64;
        self.meters.of(tenant).waiting += prompt as u64;
        self.lives.insert(Live {
            id,
            number,
            tenant,
            arrival,
            last: 0,
            prompt: prompt as u32,
            output: output as u32,
            generated: 0,
            computed: 0,
            backlog: prompt as u32,
            preemptions: 0,
            admitted: false,
            gives_up: cancel.is_some_and(|at| deadline.is_none_or(|deadline| at < deadline)),
        });
        if let Some(at) = [deadline, cancel].into_iter().flatten().min() {
            let (living, lives) = (self.lives.len(), &self.lives);
            self.timers.insert(at, id, living, |id| lives.is_alive(id));
        }
        Ok(())
    }

    /// Ends those whose deadline has passed or whose sender has given up.
    fn end_the_due(&mut self) {
        self.outcome.clear();
        let lives = &self.lives;
        while let Some(id) = self.timers.pop_due(self.now, |id| lives.is_alive(id)) {
            self.outcome.ended.push((id, End::Done));
        }
        if self.outcome.ended.is_empty() {
            return;
        }
        self.scheduler.commit(&self.outcome, self.kv);
        for at in 0..self.outcome.ended.len() {
            let (id, _) = self.outcome.ended[at];
            self.end(id, |live| match (live.gives_up, live.admitted) {
                (true, _) => Ending::Cancelled,
                (false, true) => Ending::ExpiredRunning,
                (false, false) => Ending::ExpiredWaiting,
            });
        }
    }

    /// Plans a step, computes it and commits it; false if nothing was planned.
    fn step(&mut self) -> bool {
        let mut plan = std::mem::take(&mut self.plan);
        self.scheduler
            .plan(self.kv, Duration::from_nanos(self.now), &mut plan);
        self.kv.take_page_ops(&mut self.ops);
        self.ops.clear();
        self.outcome.clear();
        self.note(&plan);
        let planned = !plan.rows.is_empty();
        if planned {
            self.compute(&plan);
        }
        if !self.outcome.is_empty() {
            self.scheduler.commit(&self.outcome, self.kv);
            self.kv.take_events(&mut self.events);
            self.events.clear();
            for at in 0..self.outcome.ended.len() {
                let (id, end) = self.outcome.ended[at];
                self.end(id, |_| match end {
                    End::Done => Ending::Finished,
                    _ => Ending::Lost,
                });
            }
        }
        self.plan = plan;
        planned
    }

    /// Who left the queue, who went back, and who cannot go on.
    fn note(&mut self, plan: &StepPlan) {
        for &id in &plan.preempted {
            let Some(live) = self.lives.get_mut(id) else {
                continue;
            };
            live.preemptions += 1;
            live.backlog = live.prompt + live.generated;
            self.meters.of(live.tenant).waiting += u64::from(live.backlog);
        }
        for admission in &plan.admitted {
            let Some(live) = self.lives.get_mut(admission.id) else {
                continue;
            };
            self.meters.of(live.tenant).waiting -= u64::from(live.backlog);
            live.backlog = 0;
            let cached = admission.cached_tokens as u64;
            if live.admitted {
                let lost = u64::from(live.computed).saturating_sub(cached);
                self.meters.tokens.recomputed += lost;
            } else {
                live.admitted = true;
                self.meters.tokens.cached += cached;
                self.meters
                    .queueing
                    .record(self.now.saturating_sub(live.arrival));
            }
        }
        for (id, _) in &plan.lost {
            self.outcome.ended.push((*id, End::Failed));
        }
    }

    /// Time passes, and every row that samples has a token.
    fn compute(&mut self, plan: &StepPlan) {
        let mut load = StepLoad::default();
        for row in &plan.rows {
            load.context_tokens += row.start + row.len;
            match row.len {
                1 => load.decode_rows += 1,
                len => load.prefill_tokens += len,
            }
        }
        let counts = self.scheduler.counts();
        let level = Level {
            tokens: (load.decode_rows + load.prefill_tokens) as u64,
            running: counts.running,
            waiting: counts.waiting,
            held: self.blocks.saturating_sub(self.kv.available()),
        };
        let from = self.now;
        let now = from
            .saturating_add(nanos(self.cost.step_time(&load)))
            .min(NEVER);
        self.now = now;
        let outcome = &mut self.outcome;
        for row in &plan.rows {
            let first_token = outcome.tokens.len();
            if let Some(live) = self.lives.get_mut(row.id) {
                live.computed = (row.start + row.len) as u32;
                self.meters.served(live.tenant, row.len as u64);
                if row.samples {
                    let position = live.prompt + live.generated;
                    outcome
                        .tokens
                        .push(own_token(live.number, position as usize));
                    live.generated += 1;
                    if live.generated == 1 {
                        self.meters.first_token(live.tenant, now - live.arrival);
                    } else {
                        self.meters.itl.record(now - live.last);
                    }
                    live.last = now;
                    if live.generated == live.output {
                        self.meters.finished(live.tenant, now - live.arrival);
                        outcome.ended.push((row.id, End::Done));
                    }
                }
            }
            outcome.rows.push(RowOutcome {
                id: row.id,
                computed: row.start + row.len,
                first_token,
                new_tokens: outcome.tokens.len() - first_token,
            });
        }
        self.meters.tokens.generated += outcome.tokens.len() as u64;
        self.meters.step(from, now, &level);
    }

    /// The scheduler knows: somebody is no more.
    fn end(&mut self, id: SequenceId, how: impl FnOnce(&Live) -> Ending) {
        let Some(live) = self.lives.remove(id) else {
            return;
        };
        self.lives.give_back(id);
        self.meters.of(live.tenant).waiting -= u64::from(live.backlog);
        if live.admitted {
            self.meters.preemptions.record(u64::from(live.preemptions));
        }
        self.meters.ended(live.tenant, how(&live));
    }
}

/// Nanoseconds, up to some 146 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER).min(NEVER)
}
