//! The requests that have not ended.

use llmserve_core::SequenceId;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) id: SequenceId,
    /// Its number among all requests, which its tokens are made of.
    pub(super) number: u32,
    pub(super) tenant: u32,
    /// When it came, in nanoseconds.
    pub(super) arrival: u64,
    /// When its last token was sampled.
    pub(super) last: u64,
    pub(super) prompt: u32,
    /// Tokens it will generate.
    pub(super) output: u32,
    pub(super) generated: u32,
    /// Positions computed; once it is preempted, those it has lost.
    pub(super) computed: u32,
    /// What it adds to the tokens its tenant has waiting; 0 while it runs.
    pub(super) backlog: u32,
    pub(super) preemptions: u32,
    /// Whether it was ever admitted.
    pub(super) admitted: bool,
    /// Whether what ends it before its time is its sender, not its deadline.
    pub(super) gives_up: bool,
}

/// All of them, by slot.
#[derive(Debug, Default)]
pub(super) struct Lives {
    slots: Vec<Option<Live>>,
    /// Next owners of slots that had one.
    free: Vec<SequenceId>,
    len: usize,
}

impl Lives {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// An id that nobody has; the slot freed last comes first, for its memory is warm.
    pub(super) fn next_id(&mut self) -> SequenceId {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            SequenceId::new(self.slots.len() as u32 - 1, 0)
        })
    }

    /// An id whose owner has gone, or never came.
    pub(super) fn give_back(&mut self, id: SequenceId) {
        let next = SequenceId::new(id.slot() as u32, id.generation().wrapping_add(1));
        self.free.push(next);
    }

    pub(super) fn insert(&mut self, live: Live) {
        let slot = live.id.slot();
        self.slots[slot] = Some(live);
        self.len += 1;
    }

    pub(super) fn is_alive(&self, id: SequenceId) -> bool {
        matches!(self.slots.get(id.slot()), Some(Some(live)) if live.id == id)
    }

    pub(super) fn get_mut(&mut self, id: SequenceId) -> Option<&mut Live> {
        let live = self.slots.get_mut(id.slot())?.as_mut();
        live.filter(|live| live.id == id)
    }

    /// Takes one out. Its id is given back by whoever has told the scheduler.
    pub(super) fn remove(&mut self, id: SequenceId) -> Option<Live> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.as_ref()?.id != id {
            return None;
        }
        self.len -= 1;
        slot.take()
    }
}
