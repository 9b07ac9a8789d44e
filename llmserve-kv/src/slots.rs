//! The open sequences, found by slot number without hashing.

use llmserve_core::{KvError, SequenceId};

use crate::sequence::Sequence;

/// Open sequences by [`SequenceId::slot`]. A call for a slot's former owner finds nothing, because
/// the generation differs.
#[derive(Debug)]
pub(crate) struct Slots {
    entries: Vec<Option<Entry>>,
    /// Slot numbers are dense; one beyond this is a caller's mistake and must not cost memory.
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    sequence: Sequence,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: Vec::new(),
            limit,
        }
    }

    pub(crate) fn get(&self, id: SequenceId) -> Result<&Sequence, KvError> {
        match self.entries.get(id.slot()) {
            Some(Some(entry)) if entry.generation == id.generation() => Ok(&entry.sequence),
            _ => Err(KvError::UnknownSequence(id)),
        }
    }

    pub(crate) fn get_mut(&mut self, id: SequenceId) -> Result<&mut Sequence, KvError> {
        match self.entries.get_mut(id.slot()) {
            Some(Some(entry)) if entry.generation == id.generation() => Ok(&mut entry.sequence),
            _ => Err(KvError::UnknownSequence(id)),
        }
    }

    /// Whether a sequence could be put under `id`.
    ///
    /// # Errors
    /// [`KvError::AlreadyOpen`] with whoever has the slot, [`KvError::Invalid`] beyond the limit.
    pub(crate) fn check_vacant(&self, id: SequenceId) -> Result<(), KvError> {
        if id.slot() >= self.limit {
            return Err(KvError::Invalid {
                sequence: id,
                reason: "its slot number is not below the manager's max_sequences",
            });
        }
        match self.entries.get(id.slot()) {
            Some(Some(entry)) => Err(KvError::AlreadyOpen(SequenceId::new(
                id.slot() as u32,
                entry.generation,
            ))),
            _ => Ok(()),
        }
    }

    /// Puts a sequence into a slot that [`check_vacant`](Self::check_vacant) found empty.
    pub(crate) fn insert(&mut self, id: SequenceId, sequence: Sequence) {
        if self.entries.len() <= id.slot() {
            self.entries.resize_with(id.slot() + 1, || None);
        }
        self.entries[id.slot()] = Some(Entry {
            generation: id.generation(),
            sequence,
        });
    }

    pub(crate) fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        self.get(id).ok()?;
        let entry = self.entries.get_mut(id.slot())?.take()?;
        Some(entry.sequence)
    }
}
