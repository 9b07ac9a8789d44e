//! Levels and counters, kept as things happen.

use llmserve_core::KvStats;

use crate::pool::Pool;

/// What the pool counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) held: usize,
    pub(crate) peak_held: usize,
    /// Idle blocks with a label.
    pub(crate) cached_idle: usize,
    /// Blocks kept for pins, idle or held.
    pub(crate) kept: usize,
    /// Slots of held blocks without a token; a shared block counts once.
    pub(crate) unused: usize,
    pub(crate) evictions: u64,
}

impl Levels {
    pub(crate) fn took(&mut self, blocks: usize, unused: usize) {
        self.held += blocks;
        self.peak_held = self.peak_held.max(self.held);
        self.unused += unused;
    }

    pub(crate) fn let_go(&mut self, unused: usize) {
        self.held -= 1;
        self.unused -= unused;
    }
}

/// What the manager counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) query_tokens: u64,
    pub(crate) hit_tokens: u64,
    pub(crate) copies: u64,
}

impl Counters {
    pub(crate) fn with(self, pool: &Pool) -> KvStats {
        let levels = pool.levels();
        // Filled by name, so that a new field of KvStats cannot stay zero unnoticed.
        KvStats {
            total_blocks: pool.len(),
            held_blocks: levels.held,
            cached_idle_blocks: levels.cached_idle,
            pinned_blocks: pool.pinned(),
            pinned_cached_blocks: levels.kept,
            peak_held_blocks: levels.peak_held,
            unused_slots: levels.unused,
            query_tokens: self.query_tokens,
            hit_tokens: self.hit_tokens,
            evictions: levels.evictions,
            copies: self.copies,
        }
    }
}
