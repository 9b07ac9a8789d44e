//! What is known of one sequence, and the table of all.

use std::sync::Arc;

use llmserve_core::{SchedRequest, SequenceId, Time};

use super::flight::Flight;
use super::queue::Place;
use crate::policy::{Candidate, Rank};

/// One sequence, waiting or running.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    rank: Rank,
    order: u64,
    priority: i32,
    tenant: Option<Arc<str>>,
    arrival: Time,
    deadline: Option<Time>,
    /// In the ring and holding blocks; else in the queue and holding none.
    pub(super) running: bool,
    /// It has held blocks before.
    pub(super) resumed: bool,
    /// Tokens the KV manager knows of.
    pub(super) known: usize,
    /// Positions `0..computed` are computed or in flight.
    pub(super) computed: usize,
    /// Positions `0..sealed` are computed for certain.
    pub(super) sealed: usize,
    /// Tokens generated since it was submitted or forked.
    generated: usize,
    /// Most of them; at least 1, so that a prompt is computed whatever was asked for.
    max_new_tokens: usize,
    pub(super) max_chunk: usize,
    /// Seats it takes while it runs: 1, or its choices until it has forked.
    pub(super) seats: usize,
    pub(super) flight: Flight,
    /// The last plan that looked at it while it ran.
    pub(super) visited: u64,
    /// The last plan that has a row of it.
    pub(super) planned: u64,
}

impl Sequence {
    pub(super) fn new(request: SchedRequest, rank: Rank, order: u64) -> Self {
        Self {
            id: request.id,
            rank,
            order,
            priority: request.priority,
            tenant: request.tenant,
            arrival: request.arrival,
            deadline: request.deadline,
            running: false,
            resumed: false,
            known: request.tokens,
            computed: 0,
            sealed: 0,
            generated: 0,
            max_new_tokens: request.max_new_tokens.max(1),
            max_chunk: request.max_chunk.unwrap_or(usize::MAX).max(1),
            seats: request.choices.max(1),
            flight: Flight::default(),
            visited: 0,
            planned: 0,
        }
    }

    /// A choice forked from this one, with one token of its own. It waits, as if preempted.
    pub(super) fn fork(&self, child: SequenceId, order: u64, max_new_tokens: usize) -> Self {
        Self {
            id: child,
            order,
            tenant: self.tenant.clone(),
            running: false,
            resumed: true,
            known: self.known + 1,
            computed: 0,
            sealed: 0,
            generated: 0,
            max_new_tokens,
            seats: 1,
            flight: Flight::default(),
            visited: 0,
            planned: 0,
            ..*self
        }
    }

    /// Positions to compute, up to the last token that is known or on its way.
    pub(super) fn gap(&self) -> usize {
        (self.known + self.flight.pending()).saturating_sub(self.computed)
    }

    /// Whether it could have a row now.
    ///
    /// One that will fork waits for its fork: a child shares the block its parent writes next,
    /// which must not be written before the fork.
    pub(super) fn is_ready(&self) -> bool {
        let pending = self.flight.pending();
        self.gap() > 0
            && self.generated + pending < self.max_new_tokens
            && !(self.seats > 1 && pending > 0)
            && !self.flight.is_full()
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

    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            priority: self.priority,
            tenant: self.tenant.clone(),
            arrival: self.arrival,
            deadline: self.deadline,
            tokens: self.known,
            computed: self.computed,
            generated: self.generated,
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
