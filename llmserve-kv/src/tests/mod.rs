//! Tests of the manager as a whole.

mod behaviours;
mod check;
mod model;
mod pinning;
mod sharing;
mod sim;

use llmserve_core::{
    BlockEvent, BlockTables, GroupId, IdentityRoot, KvManager, PageOp, PrefixScope, SequenceId,
    TokenId,
};

use crate::PagedKv;

pub(crate) fn id(slot: u32) -> SequenceId {
    SequenceId::new(slot, 0)
}

pub(crate) fn kv(blocks: usize, block_size: usize) -> PagedKv {
    PagedKv::builder()
        .blocks(blocks)
        .block_size(block_size)
        .root(IdentityRoot::new(1, "f32", block_size))
        .events(true)
        .build()
        .expect("valid settings")
}

impl PagedKv {
    pub(crate) fn start(&mut self, slot: u32, tokens: &[TokenId]) -> usize {
        self.start_scoped(slot, tokens, PrefixScope::default())
    }

    /// Opens, allocates and computes all tokens; the cached ones.
    pub(crate) fn start_scoped(
        &mut self,
        slot: u32,
        tokens: &[TokenId],
        scope: PrefixScope,
    ) -> usize {
        self.open(id(slot), tokens, scope).expect("a fresh slot");
        let cached = self.allocate(id(slot), tokens.len()).expect("room");
        self.seal(id(slot), tokens.len()).expect("allocated");
        cached
    }

    /// Blocks that an allocation would use up.
    pub(crate) fn needs(&self, sequence: SequenceId, tokens: usize) -> usize {
        self.demand(sequence, tokens).expect("open").blocks
    }

    pub(crate) fn blocks_of(&self, slot: u32) -> Vec<u32> {
        let table = self.table(id(slot), GroupId::MAIN);
        table.iter().map(|block| block.0).collect()
    }

    pub(crate) fn ops(&mut self) -> Vec<PageOp> {
        let mut out = Vec::new();
        self.take_page_ops(&mut out);
        out
    }

    pub(crate) fn news(&mut self) -> Vec<BlockEvent> {
        let mut out = Vec::new();
        self.take_events(&mut out);
        out
    }
}
