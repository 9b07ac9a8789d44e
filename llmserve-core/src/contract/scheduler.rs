//! Deciding what the next step computes.
//!
//! A [`Scheduler`] is deterministic: it has no clock, no randomness and no I/O of its own, so a
//! simulation in virtual time drives the very same code as an engine.
//!
//! There is no prefill and no decode phase, only sequences whose computed tokens lag behind their
//! known tokens (vLLM's V1 scheduler): a [`PlannedRow`] closes some of that gap, and samples when
//! it closes all of it.
//!
//! `plan(N + 1)` may be asked before `commit(N)`: a row that samples counts one token more as
//! known from the moment it is planned.

use std::sync::Arc;
use std::time::Duration;

use super::clock::Time;
use super::kv::{KvError, KvManager};
use crate::ids::{SequenceId, TokenId};

/// What a scheduler knows of a request. The prompt is already open in the KV manager under `id`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchedRequest {
    /// The request's first sequence.
    pub id: SequenceId,
    /// Tokens known so far.
    pub tokens: usize,
    /// Tokens that may still be generated.
    pub max_new_tokens: usize,
    /// Choices wanted: the sequence will be forked into this many after its prefill.
    pub choices: usize,
    /// Lower is sooner.
    pub priority: i32,
    /// Who asks, for policies that are fair between tenants.
    pub tenant: Option<Arc<str>>,
    /// When the request arrived.
    pub arrival: Time,
    /// When the answer is worthless.
    pub deadline: Option<Time>,
    /// Most tokens of this sequence in one step, for rows that want logits at every position.
    pub max_chunk: Option<usize>,
}

impl SchedRequest {
    /// A request for one choice, of normal priority, that arrived at the beginning.
    pub fn new(id: SequenceId, tokens: usize, max_new_tokens: usize) -> Self {
        Self {
            id,
            tokens,
            max_new_tokens,
            choices: 1,
            priority: 0,
            tenant: None,
            arrival: Time::ZERO,
            deadline: None,
            max_chunk: None,
        }
    }
}

/// Why a request was not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no token to compute, and so nothing to generate from.
    #[error("a request has at least one token")]
    NoTokens,
    /// The prompt could never fit all KV blocks.
    #[error("the prompt needs {needed} KV blocks and the cache has {total}")]
    NeverFits {
        /// Blocks the prompt and one new token need.
        needed: usize,
        /// Blocks there are.
        total: usize,
    },
    /// The prompt cannot be computed in one step and chunked prefill is off.
    #[error(
        "a prompt of {tokens} tokens exceeds the step budget of {budget} and chunked prefill is off"
    )]
    ExceedsBudget {
        /// The prompt's tokens.
        tokens: usize,
        /// Tokens a step may compute.
        budget: usize,
    },
    /// More choices than sequences that may run at once.
    #[error("{choices} choices asked for, {max} sequences may run at once")]
    TooManyChoices {
        /// Choices asked for.
        choices: usize,
        /// The limit.
        max: usize,
    },
    /// The queue is full; try again later.
    #[error("{waiting} requests are waiting, the limit is {limit}")]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// The limit.
        limit: usize,
        /// When there will be room at the present rate of service; none where it is not known.
        retry_after: Option<Duration>,
    },
    /// Too many prompt tokens are waiting; try again later.
    #[error("{tokens} prompt tokens are waiting, the limit is {limit}")]
    QueueTokensFull {
        /// Prompt tokens waiting.
        tokens: usize,
        /// The most that may wait, those of the request included.
        limit: usize,
        /// When there will be room at the present rate of service; none where it is not known.
        retry_after: Option<Duration>,
    },
    /// Too much of one tenant is waiting, beside what others have waiting; try again later.
    #[error(
        "{waiting} {unit} are waiting, at most {limit} may while the queue is as full as it is"
    )]
    ShareFull {
        /// How much of the tenant's is waiting.
        waiting: usize,
        /// The most that may, those of the request included.
        limit: usize,
        /// What is counted: `"requests of this tenant"` or `"prompt tokens of this tenant"`.
        unit: &'static str,
        /// When there will be room at the present rate of service; none where it is not known.
        retry_after: Option<Duration>,
    },
    /// A plug-in of the scheduler panicked over this request.
    #[error("the scheduling policy panicked: {message}")]
    PolicyPanicked {
        /// The panic's message.
        message: String,
    },
    /// The sequence is queued or running already.
    #[error("{0:?} is already scheduled")]
    Duplicate(SequenceId),
}

/// One row of a planned step: compute positions `start..start + len` of `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// Whose row.
    pub id: SequenceId,
    /// First position computed.
    pub start: usize,
    /// Positions computed, drafts included; at least 1.
    pub len: usize,
    /// Whether the row reaches the sequence's last known token, so that a new one is sampled.
    pub samples: bool,
    /// How many of its last positions are drafts: guesses [offered](Scheduler::offer) after the
    /// last known token, computed to be verified. A row with drafts samples, and has one position
    /// besides them.
    pub drafts: usize,
}

/// A sequence that left the waiting queue in this plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who.
    pub id: SequenceId,
    /// Tokens found in the prefix cache.
    pub cached_tokens: usize,
    /// Whether it had been running before and was preempted.
    pub resumed: bool,
}

/// What one step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Rows, running sequences first.
    pub rows: Vec<PlannedRow>,
    /// Sequences admitted.
    pub admitted: Vec<Admission>,
    /// Sequences whose blocks were taken away; they wait again and lose nothing but time.
    pub preempted: Vec<SequenceId>,
    /// Sequences that cannot go on, in this plan or since the last commit, because the KV manager
    /// refused a call that its contract lets succeed. The engine ends their requests.
    pub lost: Vec<(SequenceId, KvError)>,
}

impl StepPlan {
    /// Empties the plan, keeping its memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.admitted.clear();
        self.preempted.clear();
        self.lost.clear();
    }

    /// Tokens the step computes.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.len).sum()
    }
}

/// What became of one planned row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOutcome {
    /// Whose row.
    pub id: SequenceId,
    /// Positions `0..computed` now hold valid keys and values: those of drafts that were accepted
    /// among them, those of rejected ones not.
    pub computed: usize,
    /// Where the row's new tokens start in [`StepOutcome::tokens`].
    pub first_token: usize,
    /// How many there are; 0 for a row that did not sample, and for one whose sequence was only to be
    /// computed and ends with it.
    pub new_tokens: usize,
}

/// A sequence that became two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Which is copied, as it was before this step's new tokens were appended to it.
    pub parent: SequenceId,
    /// The copy.
    pub child: SequenceId,
    /// The child's own first tokens: the one that was picked, and those a grammar had follow it.
    pub tokens: Vec<TokenId>,
    /// Tokens the child may still generate after those.
    pub max_new_tokens: usize,
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It finished, was cancelled or expired; its sealed blocks stay cached.
    Done,
    /// Its step failed: what that step wrote must not be hit by anyone.
    Failed,
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepOutcome {
    /// Rows that were computed, in plan order. A row of a sequence the scheduler no longer knows
    /// is ignored.
    pub rows: Vec<RowOutcome>,
    /// New tokens of all rows.
    pub tokens: Vec<TokenId>,
    /// Forks, applied after the rows' blocks are sealed and before their tokens are appended.
    pub forks: Vec<Fork>,
    /// Sequences that end now, waiting or running, applied last.
    pub ended: Vec<(SequenceId, End)>,
}

impl StepOutcome {
    /// Empties the outcome, keeping its memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
        self.forks.clear();
        self.ended.clear();
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.forks.is_empty() && self.ended.is_empty()
    }

    /// The new tokens of a row.
    pub fn tokens_of(&self, row: &RowOutcome) -> &[TokenId] {
        self.tokens
            .get(row.first_token..row.first_token + row.new_tokens)
            .unwrap_or(&[])
    }
}

/// How many sequences are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerCounts {
    /// Holding blocks, in the batch.
    pub running: usize,
    /// Waiting, preempted ones included.
    pub waiting: usize,
    /// Preemptions so far.
    pub preemptions: u64,
}

/// Decides what each step computes. See the module's page.
pub trait Scheduler: Send {
    /// Most tokens one step computes.
    fn max_batched_tokens(&self) -> usize;

    /// Most sequences that run at once.
    fn max_num_seqs(&self) -> usize;

    /// Queues a request whose sequence is open in `kv`.
    ///
    /// # Errors
    /// A [`Refusal`], having changed nothing; the caller closes the sequence.
    fn submit(&mut self, request: SchedRequest, kv: &dyn KvManager) -> Result<(), Refusal>;

    /// Fills `plan` (cleared first) with the next step. Allocates blocks; releases only those of
    /// sequences it preempts.
    fn plan(&mut self, kv: &mut dyn KvManager, now: Time, plan: &mut StepPlan);

    /// Takes note of a step's outcome: seals, forks, appends, then ends. Sequences that ended are
    /// closed in `kv`.
    fn commit(&mut self, outcome: &StepOutcome, kv: &mut dyn KvManager);

    /// How many sequences are where.
    fn counts(&self) -> SchedulerCounts;

    /// Whether drafts that are [offered](Self::offer) will be planned. An engine that is to
    /// speculate is not built with a scheduler that says no, which is the default.
    fn plans_drafts(&self) -> bool {
        false
    }

    /// Tells that `drafts` guesses are at hand for what follows the sequence's last known token.
    /// Its next row may have up to as many of them; what it leaves out is forgotten. Drafts never
    /// cost another its row, its blocks or its place.
    fn offer(&mut self, sequence: SequenceId, drafts: usize) {
        let _ = (sequence, drafts);
    }
}
