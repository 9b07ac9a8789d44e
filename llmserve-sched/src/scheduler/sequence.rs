//! What is known of one sequence, and the table of all.

use std::sync::Arc;

use llmserve_core::{GroupId, KvManager, SchedRequest, SequenceId, StepPlan, Time};

use super::admit::Stuck;
use super::flight::Flight;
use super::queue::{LineId, Place};
use crate::policy::{Candidate, Rank, Served};

/// One sequence, waiting or running.
///
/// What a step of decoding touches comes first and together: with a thousand sequences most of the
/// time of a plan goes into fetching it.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    /// Tokens the KV manager knows of.
    pub(super) known: usize,
    /// Positions `0..computed` are computed or in flight.
    pub(super) computed: usize,
    /// Positions `0..sealed` are computed for certain.
    pub(super) sealed: usize,
    /// Tokens generated since it was submitted or forked.
    pub(super) generated: usize,
    /// Most of them; at least 1, so that a prompt is computed whatever was asked for.
    pub(super) max_new_tokens: usize,
    /// Guesses at hand for what follows the last known token.
    pub(super) offered: usize,
    pub(super) flight: Flight,
    /// The last plan that looked at it while it ran.
    pub(super) visited: u64,
    /// The last plan that has a row of it.
    pub(super) planned: u64,
    /// How long that row is.
    pub(super) row_len: usize,
    /// Blocks that it has yet to take, as the plan at hand counts them.
    pub(super) owed: usize,
    pub(super) max_chunk: usize,
    /// Seats it takes while it runs: 1, or its choices until it has forked.
    pub(super) seats: usize,
    /// How many tokens it will have generated in the end, as far as one can tell.
    pub(super) expected: usize,
    /// Tokens of it that were in the prefix cache when it was admitted.
    pub(super) cached: usize,
    /// Its tenant's line in the queue.
    pub(super) line: LineId,
    /// In the ring and holding blocks; else in the queue and holding none.
    pub(super) running: bool,
    /// It has held blocks before.
    pub(super) resumed: bool,

    /// Its rank now; that of its submission but while it waits in a queue that is reviewed.
    rank: Rank,
    submitted_rank: Rank,
    order: u64,
    priority: i32,
    tenant: Option<Arc<str>>,
    arrival: Time,
    pub(super) deadline: Option<Time>,
    /// What it adds to the tokens that wait, while it waits.
    pub(super) queued: usize,
    /// When its rank was reviewed last, as the scheduler counts changes.
    pub(super) reviewed: u64,
    pub(super) preemptions: u32,
    /// The plan that preempted it last.
    pub(super) preempted: u64,
    /// Who is computing a prefix it lacks, and up to where they share it.
    pub(super) twin: Option<(SequenceId, usize)>,
    /// What it lacked when it was next and there were too few blocks.
    pub(super) stuck: Option<Stuck>,
    /// Tokens it was submitted or forked with.
    prompt: usize,
}

impl Sequence {
    pub(super) fn new(request: SchedRequest, rank: Rank, order: u64, line: LineId) -> Self {
        Self {
            id: request.id,
            rank,
            submitted_rank: rank,
            order,
            priority: request.priority,
            tenant: request.tenant,
            arrival: request.arrival,
            deadline: request.deadline,
            line,
            queued: 0,
            reviewed: 0,
            expected: 0,
            cached: 0,
            preemptions: 0,
            preempted: 0,
            twin: None,
            stuck: None,
            running: false,
            resumed: false,
            known: request.tokens,
            computed: 0,
            sealed: 0,
            prompt: request.tokens,
            generated: 0,
            max_new_tokens: request.max_new_tokens.max(1),
            offered: 0,
            max_chunk: request.max_chunk.unwrap_or(usize::MAX).max(1),
            seats: request.choices.max(1),
            flight: Flight::default(),
            visited: 0,
            planned: 0,
            row_len: 0,
            owed: 0,
        }
    }

    /// A choice forked from this one, with `own` tokens of its own, and at most `max_new_tokens`
    /// more to come. It waits, as if preempted.
    pub(super) fn fork(
        &self,
        child: SequenceId,
        order: u64,
        own: usize,
        max_new_tokens: usize,
    ) -> Self {
        Self {
            id: child,
            order,
            tenant: self.tenant.clone(),
            queued: 0,
            reviewed: 0,
            expected: 0,
            cached: self.known,
            preemptions: 0,
            preempted: 0,
            twin: None,
            stuck: None,
            running: false,
            resumed: true,
            known: self.known + own,
            computed: 0,
            sealed: 0,
            prompt: self.prompt,
            generated: own,
            max_new_tokens: max_new_tokens.saturating_add(own),
            offered: 0,
            seats: 1,
            flight: Flight::default(),
            visited: 0,
            planned: 0,
            row_len: 0,
            owed: 0,
            ..*self
        }
    }

    /// Positions to compute, up to the last token that is known or on its way.
    #[inline]
    pub(super) fn gap(&self) -> usize {
        (self.known + self.flight.pending()).saturating_sub(self.computed)
    }

    /// Whether it could have a row now.
    ///
    /// One that will fork waits for its fork: a child shares the block its parent writes next,
    /// which must not be written before the fork.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        let pending = self.flight.pending();
        self.gap() > 0
            && self.generated + pending < self.max_new_tokens
            && !(self.seats > 1 && pending > 0)
            && !self.flight.is_full()
    }

    /// Whether it may be displaced: it has not been preempted too often, was running before step
    /// `step` began to be planned, and nobody who was admitted since can have hit what its row in
    /// the plan will compute.
    pub(super) fn may_yield(&self, step: u64, block_size: usize, plan: &StepPlan) -> bool {
        let fills_a_block = || {
            let before = self.computed - self.row_len.min(self.computed);
            self.planned == step && before / block_size < self.computed / block_size
        };
        self.preemptions < crate::MAX_PREEMPTIONS
            && self.visited == step
            && (plan.admitted.is_empty() || !fills_a_block())
    }

    /// Its number: that of its submission or fork.
    pub(super) fn number(&self) -> u64 {
        self.order
    }

    /// Takes note of tokens the host has appended.
    pub(super) fn append(&mut self, tokens: usize) {
        self.known += tokens;
        self.generated += tokens;
    }

    /// Where it stands in the queue.
    pub(super) fn place(&self) -> Place {
        Place {
            rank: self.rank,
            newcomer: !self.resumed,
            order: self.order,
            slot: self.id.slot(),
        }
    }

    /// Gives it a place elsewhere in the queue.
    pub(super) fn rerank(&mut self, rank: Rank) -> Place {
        self.rank = rank;
        self.place()
    }

    /// The rank of its submission.
    pub(super) fn submitted_rank(&self) -> Rank {
        self.submitted_rank
    }

    /// What its policy learns from it when it ends.
    pub(super) fn served(&self) -> Served<'_> {
        Served::new(self.tenant.as_deref(), self.prompt, self.generated)
    }

    /// What a policy sees of it while it waits.
    pub(super) fn waiting(&self, cached: usize) -> Candidate {
        Candidate {
            cached,
            ..self.seen()
        }
    }

    /// What a policy sees of it while it runs.
    pub(super) fn candidate(&self, kv: &dyn KvManager) -> Candidate {
        self.with_gain(self.seen(), kv)
    }

    /// Adds what its preemption would free: a walk along its blocks.
    pub(super) fn with_gain(&self, seen: Candidate, kv: &dyn KvManager) -> Candidate {
        let held = self.held(kv);
        let gain = kv.releasable(self.id).min(held);
        Candidate {
            cached: ((held - gain) * kv.layout().block_size).min(self.computed),
            gain,
            ..seen
        }
    }

    /// Blocks it holds, those that others hold too among them.
    pub(super) fn held(&self, kv: &dyn KvManager) -> usize {
        kv.table(self.id, GroupId::MAIN).len()
    }

    /// What a policy sees of it, but for its blocks.
    pub(super) fn seen(&self) -> Candidate {
        Candidate {
            priority: self.priority,
            tenant: self.tenant.clone(),
            arrival: self.arrival,
            deadline: self.deadline,
            tokens: self.known,
            computed: self.computed,
            generated: self.generated,
            preemptions: self.preemptions,
            ..Candidate::new(self.id, self.rank, self.order)
        }
    }
}

/// All sequences, by slot.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Sequence>>,
}

impl Table {
    pub(super) fn is_free(&self, slot: usize) -> bool {
        !matches!(self.slots.get(slot), Some(Some(_)))
    }

    /// The sequence, none if its slot is empty or has another owner.
    pub(super) fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.at_mut(id.slot()).filter(|sequence| sequence.id == id)
    }

    pub(super) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.at(id.slot()).filter(|sequence| sequence.id == id)
    }

    /// The owner of a slot.
    pub(super) fn at(&self, slot: usize) -> Option<&Sequence> {
        self.slots.get(slot)?.as_ref()
    }

    /// The owner of a slot.
    pub(super) fn at_mut(&mut self, slot: usize) -> Option<&mut Sequence> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(super) fn insert(&mut self, sequence: Sequence) {
        let slot = sequence.id.slot();
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(sequence);
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Sequence> {
        self.slots.get_mut(slot)?.take()
    }
}
