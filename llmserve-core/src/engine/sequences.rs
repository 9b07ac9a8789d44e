//! The engine's sequences, by slot: dense, and reused with a new generation.

use super::request::Sequence;
use crate::ids::SequenceId;

/// Sequences by slot.
#[derive(Default)]
pub(super) struct Sequences {
    slots: Vec<(u32, Option<Box<Sequence>>)>,
    free: Vec<u32>,
}

impl Sequences {
    pub(super) fn insert(&mut self, sequence: Box<Sequence>) -> SequenceId {
        let id = self.reserve();
        self.put_back(id, sequence);
        id
    }

    /// A slot whose owner is still in the caller's hands; [`put_back`](Self::put_back) follows.
    pub(super) fn reserve(&mut self) -> SequenceId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        SequenceId::new(slot, self.slots[slot as usize].0)
    }

    pub(super) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        let (generation, sequence) = self.slots.get(id.slot())?;
        if *generation == id.generation() {
            sequence.as_deref()
        } else {
            None
        }
    }

    pub(super) fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        let (generation, sequence) = self.slots.get_mut(id.slot())?;
        if *generation == id.generation() {
            sequence.as_deref_mut()
        } else {
            None
        }
    }

    /// Takes a sequence out to work on it; [`put_back`](Self::put_back) follows.
    pub(super) fn take(&mut self, id: SequenceId) -> Option<Box<Sequence>> {
        let (generation, sequence) = self.slots.get_mut(id.slot())?;
        if *generation == id.generation() {
            sequence.take()
        } else {
            None
        }
    }

    pub(super) fn put_back(&mut self, id: SequenceId, sequence: Box<Sequence>) {
        self.slots[id.slot()].1 = Some(sequence);
    }

    /// Frees the slot for another owner.
    pub(super) fn remove(&mut self, id: SequenceId) {
        let Some((generation, sequence)) = self.slots.get_mut(id.slot()) else {
            return;
        };
        if *generation == id.generation() {
            *sequence = None;
            *generation = generation.wrapping_add(1);
            self.free.push(id.slot() as u32);
        }
    }
}
