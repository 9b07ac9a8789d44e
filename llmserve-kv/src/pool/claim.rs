//! Taking blocks, all or none.

use llmserve_core::BlockId;

use super::{Pool, Table};

#[derive(Clone, Copy, Debug)]
pub(super) enum Taken {
    /// From the front of the free list; what it held is forgotten when the claim is kept.
    Fresh(BlockId),
    /// For its content.
    Hit(BlockId),
}

/// The free list is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// Blocks on their way from the pool into a table.
///
/// Dropped, it gives everything back exactly as it was: order in the free list, reference counts
/// and identities. [`keep`](Self::keep) moves the blocks into a table for good.
#[derive(Debug)]
#[must_use = "a dropped claim gives its blocks back"]
pub(crate) struct Claim<'p> {
    pool: &'p mut Pool,
}

impl<'p> Claim<'p> {
    pub(super) fn new(pool: &'p mut Pool) -> Self {
        debug_assert!(pool.claimed.is_empty());
        Self { pool }
    }

    /// Takes one more reference to a labelled block, idle or held.
    pub(crate) fn hit(&mut self, id: BlockId) {
        let block = &mut self.pool.blocks[id.index()];
        debug_assert!(block.label.is_some());
        if block.refs == 0 {
            self.pool.free.remove(id);
        }
        block.refs += 1;
        self.pool.claimed.push(Taken::Hit(id));
    }

    /// Takes the least recently used idle block.
    pub(crate) fn fresh(&mut self) -> Result<(), Exhausted> {
        let id = self.pool.free.pop_front().ok_or(Exhausted)?;
        self.pool.blocks[id.index()].refs = 1;
        self.pool.claimed.push(Taken::Fresh(id));
        Ok(())
    }

    /// Moves the blocks to the end of `table`, in the order they were taken. Fresh ones lose what
    /// they held and are blank.
    pub(crate) fn keep(self, table: &mut Table) {
        // Taken out, so that the drop at the end finds nothing to give back.
        let mut claimed = std::mem::take(&mut self.pool.claimed);
        for taken in claimed.drain(..) {
            let id = match taken {
                Taken::Hit(id) => {
                    self.pool.took_hit(id);
                    id
                }
                Taken::Fresh(id) => {
                    self.pool.took_fresh(id);
                    id
                }
            };
            table.blocks.push(id);
        }
        self.pool.claimed = claimed;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // In reverse: that is what makes the free list's restore exact.
        while let Some(Taken::Hit(id) | Taken::Fresh(id)) = self.pool.claimed.pop() {
            let block = &mut self.pool.blocks[id.index()];
            block.refs -= 1;
            if block.refs == 0 {
                self.pool.free.restore(id);
            }
        }
    }
}
