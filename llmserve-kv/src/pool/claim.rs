//! Taking blocks, all or none.

use llmserve_core::BlockId;

use super::{Pool, Table};

/// The free list has fewer blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// Blocks on their way from the pool into a table.
///
/// ```text
///  table   [ held … ][ hits … ][ fresh … ]
///                    └─── the claim ─────┘
/// ```
///
/// Dropped, it gives everything back exactly as it was: order in the free list, reference counts
/// and identities. [`keep`](Self::keep) leaves the blocks in the table for good.
#[derive(Debug)]
#[must_use = "a dropped claim gives its blocks back"]
pub(crate) struct Claim<'a> {
    pool: &'a mut Pool,
    table: &'a mut Table,
    /// Blocks of the table before the claim's.
    held: usize,
    hits: usize,
}

impl<'a> Claim<'a> {
    pub(super) fn new(pool: &'a mut Pool, table: &'a mut Table) -> Self {
        let held = table.len();
        Self {
            pool,
            table,
            held,
            hits: 0,
        }
    }

    /// Takes one more reference to a labelled block, idle or held. Hits come before fresh blocks.
    pub(crate) fn hit(&mut self, id: BlockId) {
        debug_assert_eq!(self.table.len(), self.held + self.hits);
        let block = &mut self.pool.blocks[id.index()];
        debug_assert!(block.label.is_some());
        if block.refs == 0 {
            self.pool.free.remove(id);
        }
        block.refs += 1;
        self.table.blocks.push(id);
        self.hits += 1;
    }

    /// Takes the least recently used idle blocks, those kept for a pin last. What they hold is
    /// forgotten when the claim is kept.
    pub(crate) fn fresh(&mut self, blocks: usize) -> Result<(), Exhausted> {
        match self.pool.free.pop(blocks, &mut self.table.blocks) {
            true => Ok(()),
            false => Err(Exhausted),
        }
    }

    /// Leaves the blocks in the table, in the order they were taken. The `n`-th of the fresh ones
    /// is blank but for `fill(n)` tokens that its holder has for it.
    pub(crate) fn keep(mut self, fill: impl Fn(usize) -> usize) {
        let (hits, fresh) = self.table.blocks[self.held..].split_at(self.hits);
        hits.iter().for_each(|&id| self.pool.took_hit(id));
        self.pool.took_fresh(fresh, fill);
        // So that the drop finds nothing to give back.
        self.held = self.table.len();
        self.hits = 0;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let (hits, fresh) = self.table.blocks[self.held..].split_at(self.hits);
        // In reverse: that is what makes the free list's restore exact.
        for &id in fresh.iter().rev() {
            let ring = self.pool.block(id).ring();
            self.pool.free.push_front(id, ring);
        }
        for &id in hits.iter().rev() {
            let block = &mut self.pool.blocks[id.index()];
            block.refs -= 1;
            if block.refs == 0 {
                self.pool.free.restore(id);
            }
        }
        self.table.blocks.truncate(self.held);
    }
}
