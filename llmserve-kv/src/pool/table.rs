//! A block table: the references one sequence owns.

use llmserve_core::BlockId;

/// The blocks of one sequence, in position order. Each entry is one reference counted by the
/// pool: only the pool puts entries in and takes them out, and a table cannot be cloned.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(super) blocks: Vec<BlockId>,
}

impl Table {
    pub(crate) fn as_slice(&self) -> &[BlockId] {
        &self.blocks
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl std::ops::Index<usize> for Table {
    type Output = BlockId;

    fn index(&self, block: usize) -> &BlockId {
        &self.blocks[block]
    }
}
