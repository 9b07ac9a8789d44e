//! The scheduler: what it keeps, and its face to the engine.
//!
//! ```text
//!  submit.rs    refuse, or rank and queue
//!  running.rs   plan, first half: rows for those who run
//!  admit.rs     plan, second half: rows for those who wait
//!  reserve.rs   room kept for what running sequences may still generate
//!  delay.rs     waiting a little for a fuller batch
//!  service.rs   how fast the queue is served, for "try again after"
//!  review.rs    ranks that change while one waits
//!  queue/       who is next: turns of tenants, ranks within one
//!  drafts.rs    plan, what is left of it: guesses to verify
//!  preempt.rs   taking blocks away
//!  displace.rs  from whom: for a rank, or for a tenant's share
//!  commit.rs    seal, fork, append, end
//! ```

mod admit;
mod commit;
mod delay;
mod displace;
mod drafts;
mod flight;
mod preempt;
mod queue;
mod reserve;
mod review;
mod ring;
mod running;
mod sequence;
mod service;
mod submit;
#[cfg(test)]
mod tests;

use llmserve_core::{
    KvError, KvManager, Refusal, SchedRequest, Scheduler, SchedulerCounts, SequenceId, StepOutcome,
    StepPlan, Time,
};

use crate::builder::SchedulerBuilder;
use crate::config::SchedulerConfig;
use crate::policy::{Candidate, Guarded, Policy};
use delay::Delay;
use displace::Holdings;
use queue::{LineId, Place, Queue};
use reserve::Reserve;
use ring::Ring;
use sequence::{Sequence, Table};
use service::Service;

/// Continuous batching over one token budget. See the [crate's page](crate) for the idea and
/// [`Scheduler`] for the contract.
///
/// A host other than the engine keeps three things in mind. A prompt and what it may generate
/// must fit the KV cache together: submission refuses only a prompt that cannot produce a single
/// token. A sequence that has its `max_new_tokens` gets no more rows and holds its blocks until
/// the host ends it. Every planned row is committed, in plan order, or its sequence ended.
///
/// ```
/// use llmserve_core::{RowOutcome, SchedRequest, Scheduler, SequenceId, StepOutcome, StepPlan};
/// use llmserve_core::{End, IdentityRoot, KvManager, PrefixScope, Time};
/// use llmserve_sched::ContinuousScheduler;
/// # fn manager() -> Result<impl KvManager, Box<dyn std::error::Error>> {
/// #     let root = IdentityRoot::new(1, "doc", 16);
/// #     Ok(llmserve_kv::PagedKv::builder().blocks(8).block_size(16).root(root).build()?)
/// # }
///
/// let mut kv = manager()?; // any KvManager: here 8 blocks of 16 tokens
/// let mut scheduler = ContinuousScheduler::builder().max_batched_tokens(32).build()?;
/// let id = SequenceId::new(0, 0);
/// kv.open(id, &[7; 40], PrefixScope::default())?;
/// scheduler.submit(SchedRequest::new(id, 40, 1), &kv)?;
///
/// let (mut plan, mut outcome) = (StepPlan::default(), StepOutcome::default());
/// for expected in [(0, 32, false), (32, 8, true)] {
///     scheduler.plan(&mut kv, Time::ZERO, &mut plan);
///     let row = plan.rows[0];
///     assert_eq!((row.start, row.len, row.samples), expected);
///     outcome.clear();
///     // A row that samples brings its token along.
///     outcome.tokens.extend(row.samples.then_some(3));
///     let (computed, new_tokens) = (row.start + row.len, outcome.tokens.len());
///     outcome.rows.push(RowOutcome { id, computed, first_token: 0, new_tokens });
///     if row.samples {
///         outcome.ended.push((id, End::Done));
///     }
///     scheduler.commit(&outcome, &mut kv);
/// }
/// assert_eq!(scheduler.counts().running, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ContinuousScheduler {
    config: SchedulerConfig,
    policy: Guarded,
    table: Table,
    queue: Queue,
    ring: Ring,
    /// Seats taken by the running, reserved ones included.
    seats: usize,
    /// Submissions and forks so far.
    order: u64,
    /// Plans so far.
    step: u64,
    /// Where the walk over the running begins, if not with the first: with the one that the
    /// budget of the plan before did not reach.
    turn: Option<usize>,
    /// [`turn`](Self::turn) of the next plan.
    next_turn: Option<usize>,
    /// Where the walk over the running goes on. Like the two above, it moves on when the sequence
    /// it points to leaves the ring.
    cursor: Option<usize>,
    reserve: Reserve,
    service: Service,
    delay: Delay,
    /// How often a sequence came to run or ceased to.
    changes: u64,
    /// How often one ceased to.
    departures: u64,
    /// Whether tenants take what others have beyond their shares.
    reclaims: bool,
    /// [`changes`](Self::changes) when a tenant found nobody to take a seat from.
    unclaimed: u64,
    /// Scratch of a claim.
    holdings: Holdings,
    /// Whether the ranks of those that wait may be others than those of their submission.
    has_reviews: bool,
    preemptions: u64,
    kv_errors: u64,
    /// Whom the next plan reports as lost.
    lost: Vec<(SequenceId, KvError)>,
    /// Scratch of a preemption.
    candidates: Vec<Candidate>,
    /// Scratch of a review.
    places: Vec<(LineId, Place)>,
    /// Scratch of a commit: which of its rows were in flight.
    in_flight: Vec<bool>,
}

impl ContinuousScheduler {
    /// A builder with the defaults of [`SchedulerConfig`] and the policy
    /// [`Fcfs`](crate::Fcfs).
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder::new()
    }

    pub(crate) fn new(config: SchedulerConfig, policy: Box<dyn Policy>) -> Self {
        let policy = Guarded::new(policy);
        Self {
            queue: Queue::new(
                config.fairness.clone(),
                policy.patience(),
                config.max_num_seqs,
            ),
            policy,
            table: Table::default(),
            ring: Ring::new(),
            seats: 0,
            order: 0,
            step: 0,
            turn: None,
            next_turn: None,
            cursor: None,
            reserve: Reserve::new(config.reservation),
            service: Service::default(),
            delay: Delay::default(),
            changes: 1,
            departures: 1,
            reclaims: config
                .fairness
                .as_ref()
                .is_some_and(|fairness| fairness.reclaims),
            unclaimed: 0,
            holdings: Holdings::default(),
            has_reviews: false,
            preemptions: 0,
            kv_errors: 0,
            lost: Vec::new(),
            candidates: Vec::new(),
            places: Vec::new(),
            config,
            in_flight: Vec::new(),
        }
    }

    /// The limits it was built with.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// How often the policy panicked. A panic over a new request also refused it.
    pub fn policy_panics(&self) -> u64 {
        self.policy.panics()
    }

    /// How often the KV manager refused a call that its contract lets succeed. Anything but 0 is
    /// a defect of the manager, or of a host that opened or closed sequences behind the
    /// scheduler's back.
    pub fn kv_errors(&self) -> u64 {
        self.kv_errors
    }

    /// The share of what running sequences are expected to need that admission keeps room for; 0
    /// where there is no [`Reservation`](crate::Reservation).
    pub fn reserved_share(&self) -> f64 {
        self.reserve.share()
    }

    /// Puts a sequence of the table on the ring, with its seats.
    fn join_ring(&mut self, slot: usize) {
        if let Some(sequence) = self.table.at_mut(slot) {
            let (line, seats) = (sequence.line, sequence.seats);
            self.seats += seats;
            self.queue.sit(line, seats);
            self.ring.push_back(slot);
            self.changes += 1;
        }
    }

    /// Takes a sequence off the ring, its seats with it.
    fn leave_ring(&mut self, slot: usize, line: LineId, seats: usize) {
        let next = self.ring.next(slot).filter(|next| *next != slot);
        for at in [&mut self.turn, &mut self.next_turn, &mut self.cursor] {
            if *at == Some(slot) {
                *at = next;
            }
        }
        self.ring.remove(slot);
        self.seats -= seats;
        self.queue.rise(line, seats);
        self.changes += 1;
        self.departures += 1;
    }

    /// Puts a sequence of the table into the queue.
    fn enqueue(&mut self, slot: usize) {
        if let Some(sequence) = self.table.at_mut(slot) {
            sequence.queued = sequence.known;
            sequence.reviewed = 0;
            let (place, tokens) = (sequence.place(), sequence.queued);
            self.queue.insert(sequence.line, place, tokens);
        }
    }

    /// Takes a sequence of the table out of the queue.
    fn dequeue(&mut self, slot: usize) {
        if let Some(sequence) = self.table.at(slot) {
            let (place, tokens) = (sequence.place(), sequence.queued);
            self.queue.remove(sequence.line, &place, tokens);
        }
    }

    /// Removes a sequence from wherever it is.
    fn forget(&mut self, slot: usize) -> Option<Sequence> {
        if !self.table.at(slot)?.running {
            self.dequeue(slot);
            if self.queue.len() == 0 {
                self.service.nobody_waits();
            }
        }
        let sequence = self.table.remove(slot)?;
        if sequence.running {
            self.leave_ring(slot, sequence.line, sequence.seats);
        }
        self.queue.leave(sequence.line);
        Some(sequence)
    }

    /// Reports a sequence that cannot go on.
    fn lose(&mut self, id: SequenceId, error: KvError) {
        self.kv_errors += 1;
        self.lost.push((id, error));
    }

    fn note<T, E>(&mut self, result: Result<T, E>) {
        self.kv_errors += u64::from(result.is_err());
    }
}

impl std::fmt::Debug for ContinuousScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContinuousScheduler")
            .field("config", &self.config)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl Scheduler for ContinuousScheduler {
    fn max_batched_tokens(&self) -> usize {
        self.config.max_batched_tokens
    }

    fn max_num_seqs(&self) -> usize {
        self.config.max_num_seqs
    }

    fn submit(&mut self, request: SchedRequest, kv: &dyn KvManager) -> Result<(), Refusal> {
        self.queue_up(request, kv.layout())
    }

    fn plan(&mut self, kv: &mut dyn KvManager, now: Time, plan: &mut StepPlan) {
        plan.clear();
        self.step += 1;
        self.service.plan(now);
        let left = self.plan_running(kv, plan);
        let preempted = !plan.preempted.is_empty();
        // Whoever was preempted in this step comes before any newcomer in the next.
        let mut left = match preempted || self.is_held_back(now, &left) {
            true => left,
            false => self.plan_waiting(kv, now, plan, left),
        };
        if self.queue.len() == self.queue.resumed() {
            self.delay.over();
        }
        self.plan_rest(kv, plan, &mut left);
        self.plan_drafts(kv, plan, left);
        if !plan.rows.is_empty() {
            self.reserve.planned(preempted);
        }
        self.service.planned(self.queue.len() > 0);
        plan.lost.append(&mut self.lost);
    }

    fn commit(&mut self, outcome: &StepOutcome, kv: &mut dyn KvManager) {
        // Forks stand between the sealing of rows and their tokens. Where there are none, a few rows
        // at a time are sealed and appended to: what is known of them is at hand then.
        let at_once = match outcome.forks.is_empty() {
            true => 32,
            false => outcome.rows.len().max(1),
        };
        let mut chunks = outcome.rows.chunks(at_once);
        let first = chunks.next().unwrap_or(&[]);
        self.seal_rows(first, kv);
        for fork in &outcome.forks {
            self.fork(fork, kv);
        }
        self.append_tokens(first, outcome, kv);
        for rows in chunks {
            self.seal_rows(rows, kv);
            self.append_tokens(rows, outcome, kv);
        }
        for (id, end) in &outcome.ended {
            self.end(*id, *end, kv);
        }
    }

    fn plans_drafts(&self) -> bool {
        true
    }

    fn offer(&mut self, sequence: SequenceId, drafts: usize) {
        self.note_offer(sequence, drafts);
    }

    fn counts(&self) -> SchedulerCounts {
        SchedulerCounts {
            running: self.ring.len(),
            waiting: self.queue.len(),
            preemptions: self.preemptions,
        }
    }
}
