//! All blocks: who holds them, what is in them, which come next.
//!
//! Blocks leave the pool through a [`Claim`] and live in a [`Table`]; there is no third place for
//! one to be. The levels that statistics report are kept up to date by the few functions here that
//! change a block, so reading them costs nothing.

mod block;
mod claim;
mod pins;
mod table;
#[cfg(test)]
mod tests;

use std::num::NonZeroU64;
use std::sync::Arc;

use llmserve_core::{BlockEvent, BlockId, BlockIdentity, Extras, TokenId};

pub(crate) use block::{Block, Label, Lineage, Parent};
pub(crate) use claim::Claim;
use pins::Pins;
pub(crate) use table::Table;

use crate::free_list::{FreeList, Ring};
use crate::index::Index;
use crate::stats::Levels;

#[derive(Debug)]
pub(crate) struct Pool {
    block_size: usize,
    blocks: Vec<Block>,
    free: FreeList,
    index: Index,
    /// Tokens of labelled blocks, `block_size` for each block.
    tokens: Vec<TokenId>,
    /// Extras of labelled first blocks, by block.
    roots: Vec<Option<Arc<Extras>>>,
    /// The number that the next line of content gets.
    next_lineage: NonZeroU64,
    pins: Pins,
    levels: Levels,
    /// None when nobody listens.
    events: Option<Vec<BlockEvent>>,
}

impl Pool {
    /// `labels` says whether blocks will ever be labelled; without, nothing is kept for it. None
    /// when the blocks' slots cannot be counted or their tokens not be kept in memory. Nothing can
    /// be pinned until [`limit_pins`](Self::limit_pins) says how much.
    pub(crate) fn new(blocks: u32, block_size: usize, labels: bool, events: bool) -> Option<Self> {
        let slots = (blocks as usize).checked_mul(block_size)?;
        let labelled = if labels { blocks } else { 0 };
        let mut tokens = Vec::new();
        if labels {
            // First the largest by far, and fallibly: a size that was mistyped is an error.
            tokens.try_reserve_exact(slots).ok()?;
            tokens.resize(slots, 0);
        }
        let mut list = Vec::new();
        list.try_reserve_exact(blocks as usize).ok()?;
        list.resize_with(blocks as usize, Block::default);
        Some(Self {
            block_size,
            blocks: list,
            free: FreeList::full(blocks),
            index: Index::new(labelled),
            tokens,
            roots: vec![None; labelled as usize],
            next_lineage: NonZeroU64::MIN,
            pins: Pins::default(),
            levels: Levels::default(),
            events: events.then(Vec::new),
        })
    }

    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.index()]
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks nobody holds.
    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn levels(&self) -> &Levels {
        &self.levels
    }

    pub(crate) fn events(&mut self) -> Option<&mut Vec<BlockEvent>> {
        self.events.as_mut()
    }

    // ---- taking and giving back -------------------------------------------------------------

    /// Starts taking blocks that go to the end of `table`.
    pub(crate) fn claim<'a>(&'a mut self, table: &'a mut Table) -> Claim<'a> {
        Claim::new(self, table)
    }

    /// A second table over the same blocks.
    pub(crate) fn share(&mut self, table: &Table) -> Table {
        for id in &table.blocks {
            self.blocks[id.index()].refs += 1;
        }
        Table {
            blocks: table.blocks.clone(),
        }
    }

    /// Gives back all blocks of `table` but the first `keep`, last first, so that a sequence's tail
    /// is evicted before its head.
    pub(crate) fn give_back(&mut self, table: &mut Table, keep: usize) {
        while table.len() > keep {
            if let Some(id) = table.blocks.pop() {
                self.let_go(id);
            }
        }
    }

    /// Whether a sequence that holds `id` may write to it: nobody else reads it.
    pub(crate) fn is_private(&self, id: BlockId) -> bool {
        let block = self.block(id);
        block.refs == 1 && block.label.is_none()
    }

    /// Puts the blocks `spares.start..` of `table` in the place of the shared blocks among `write`,
    /// gives those back, and returns through `each` what replaced what, by position in the table.
    /// There must be as many spares as shared blocks.
    pub(crate) fn replace_shared(
        &mut self,
        table: &mut Table,
        write: std::ops::Range<usize>,
        spares: std::ops::Range<usize>,
        mut each: impl FnMut(usize, BlockId, BlockId),
    ) {
        let mut spare = spares.start;
        for at in write {
            let id = table[at];
            if spare < spares.end && self.block(id).refs > 1 {
                table.blocks.swap(at, spare);
                each(at, id, table[at]);
                spare += 1;
            }
        }
        for at in spares.clone() {
            self.let_go(table[at]);
        }
        table.blocks.drain(spares);
    }

    fn let_go(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        debug_assert!(block.refs > 0);
        block.refs -= 1;
        if block.refs > 0 {
            return;
        }
        let unused = self.block_size - block.fill as usize;
        let (sealed, ring) = (block.is_sealed(), block.ring());
        self.levels.let_go(unused);
        if sealed {
            self.levels.cached_idle += 1;
            // A branch, not an index: where the last one went need not wait for what this one is.
            match ring {
                Ring::Ordinary => self.free.push_back(id, Ring::Ordinary),
                Ring::Kept => self.shelve(id),
            }
        } else {
            // Nobody is left to say that its step succeeded.
            self.strip(id);
            self.free.push_front(id, Ring::Ordinary);
        }
    }

    fn took_hit(&mut self, id: BlockId) {
        let block = &self.blocks[id.index()];
        if block.refs == 1 {
            let unused = self.block_size - block.fill as usize;
            self.levels.cached_idle -= 1;
            self.levels.took(1, unused);
        }
    }

    /// The blocks `ids` were taken for `fill` tokens each; what they held is forgotten.
    fn took_fresh(&mut self, ids: &[BlockId], fill: impl Fn(usize) -> usize) {
        let mut unused = ids.len() * self.block_size;
        for (nth, &id) in ids.iter().enumerate() {
            if self.blocks[id.index()].label.is_some() {
                self.levels.cached_idle -= 1;
                self.levels.evictions += 1;
                self.strip(id);
            }
            let fill = fill(nth);
            unused -= fill;
            let block = &mut self.blocks[id.index()];
            block.refs = 1;
            block.fill = fill as u32;
        }
        self.levels.took(ids.len(), unused);
    }

    /// A sole holder has `tokens` more in a block: the levels say so at once, the block when it is
    /// [told](Self::tell_fill).
    pub(crate) fn filled(&mut self, tokens: usize) {
        self.levels.unused -= tokens;
    }

    /// What was [`filled`](Self::filled) of a block since it was last looked at.
    pub(crate) fn tell_fill(&mut self, id: BlockId, fill: usize) {
        self.blocks[id.index()].fill = fill as u32;
    }

    /// Notes that a holder has `fill` tokens in `id`. A sole holder's word is final; of several the
    /// fullest counts.
    pub(crate) fn note_fill(&mut self, id: BlockId, fill: usize) {
        let block = &mut self.blocks[id.index()];
        if block.label.is_some() || (block.refs > 1 && fill <= block.fill as usize) {
            return;
        }
        self.levels.unused = self.levels.unused + block.fill as usize - fill;
        block.fill = fill as u32;
    }

    // ---- labels -----------------------------------------------------------------------------

    /// Whether some block carries `identity`.
    pub(crate) fn is_findable(&self, identity: BlockIdentity) -> bool {
        self.index.candidates(identity).next().is_some()
    }

    /// A block with this very content: one that is held, if there is one, for it costs nothing; else
    /// the one that is kept.
    pub(crate) fn find(
        &self,
        identity: BlockIdentity,
        parent: Parent<'_>,
        tokens: &[TokenId],
    ) -> Option<BlockId> {
        let mut idle = None;
        for id in self.index.candidates(identity) {
            if self.has_content(id, parent, tokens) {
                if self.block(id).refs > 0 {
                    return Some(id);
                }
                if idle.is_none() || self.block(id).is_kept() {
                    idle = Some(id);
                }
            }
        }
        idle
    }

    /// Makes a blank block findable as `tokens` after `parent`, not sealed yet. The number of its
    /// line.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        id: BlockId,
        identity: BlockIdentity,
        parent: Parent<'_>,
        tokens: &[TokenId],
    ) -> Lineage {
        debug_assert!(self.block(id).label.is_none());
        // As a rule there is none, which the index alone can tell.
        let twin = match self.is_findable(identity) {
            true => self.find(identity, parent, tokens),
            false => None,
        };
        let lineage = match twin.and_then(|twin| self.lineage(twin)) {
            Some(lineage) => lineage,
            None => {
                let new = self.next_lineage;
                // So many blocks are never filled: it cannot come round.
                self.next_lineage = new.saturating_add(1);
                Lineage(new)
            }
        };
        self.note_fill(id, self.block_size);
        let at = id.index() * self.block_size;
        copy(&mut self.tokens[at..at + self.block_size], tokens);
        self.index.insert(id, identity);
        let after = match parent {
            Parent::After(lineage) => Some(lineage),
            Parent::Root(extras) => {
                self.roots[id.index()] = Some(Arc::clone(extras));
                None
            }
        };
        self.blocks[id.index()].label = Some(Label {
            after,
            lineage,
            sealed: false,
            kept: false,
        });
        lineage
    }

    /// Makes a published block findable for good. The identity is announced if no other sealed
    /// block carries it: what listeners know is which identities can be hit, not how often.
    #[inline]
    pub(crate) fn seal(
        &mut self,
        id: BlockId,
        identity: BlockIdentity,
        parent: Option<BlockIdentity>,
    ) {
        let announce = self.events.is_some() && !self.is_sealed_anywhere(identity);
        match &mut self.blocks[id.index()].label {
            Some(label) if !label.sealed => label.sealed = true,
            _ => return,
        }
        self.keep_sealed(id, identity);
        if announce {
            let tokens = self.tokens_of(id).to_vec();
            self.announce(BlockEvent::Stored {
                identity,
                parent,
                tokens,
            });
        }
    }

    /// Makes a block blank: nobody will find it any more.
    pub(crate) fn strip(&mut self, id: BlockId) {
        let Some(label) = self.blocks[id.index()].label.take() else {
            return;
        };
        if label.after.is_none() {
            self.roots[id.index()] = None;
        }
        let identity = self.index.remove(id);
        if label.kept {
            self.pass_on(identity, label.lineage);
        }
        if label.sealed && self.events.is_some() && !self.is_sealed_anywhere(identity) {
            self.announce(BlockEvent::Removed { identity });
        }
    }

    pub(crate) fn lineage(&self, id: BlockId) -> Option<Lineage> {
        self.block(id).label.map(|label| label.lineage)
    }

    /// Forgets all content, not what is pinned. Nobody may hold a block.
    pub(crate) fn clear(&mut self) {
        debug_assert_eq!(self.available(), self.len());
        for at in 0..self.blocks.len() {
            if self.blocks[at].label.take().is_some() {
                self.index.remove(BlockId(at as u32));
            }
        }
        self.roots.fill(None);
        self.levels.cached_idle = 0;
        self.levels.kept = 0;
        self.free = FreeList::full(self.blocks.len() as u32);
        self.announce(BlockEvent::Cleared);
    }

    #[inline]
    fn has_content(&self, id: BlockId, parent: Parent<'_>, tokens: &[TokenId]) -> bool {
        self.follows(id, parent) && equal(self.tokens_of(id), tokens)
    }

    /// Whether a block is labelled as one after `parent`.
    #[inline]
    fn follows(&self, id: BlockId, parent: Parent<'_>) -> bool {
        let Some(label) = self.block(id).label else {
            return false;
        };
        match parent {
            Parent::After(lineage) => label.after == Some(lineage),
            Parent::Root(extras) => {
                label.after.is_none() && self.roots[id.index()].as_ref() == Some(extras)
            }
        }
    }

    fn tokens_of(&self, id: BlockId) -> &[TokenId] {
        let at = id.index() * self.block_size;
        &self.tokens[at..at + self.block_size]
    }

    fn is_sealed_anywhere(&self, identity: BlockIdentity) -> bool {
        self.index
            .candidates(identity)
            .any(|id| self.block(id).is_sealed())
    }

    fn announce(&mut self, event: BlockEvent) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }
}

/// Tokens that are moved or compared at once: few enough for it to be done without a call, which
/// would take longer.
const RUN: usize = 8;

/// Copies the tokens of a block.
#[inline]
fn copy(to: &mut [TokenId], from: &[TokenId]) {
    let (to_runs, to_rest) = to.as_chunks_mut::<RUN>();
    let (from_runs, from_rest) = from.as_chunks::<RUN>();
    for (to, from) in to_runs.iter_mut().zip(from_runs) {
        *to = *from;
    }
    if !to_rest.is_empty() {
        to_rest.copy_from_slice(from_rest);
    }
}

/// Whether the tokens of two blocks are equal.
#[inline]
fn equal(one: &[TokenId], other: &[TokenId]) -> bool {
    let (one_runs, one_rest) = one.as_chunks::<RUN>();
    let (other_runs, other_rest) = other.as_chunks::<RUN>();
    one.len() == other.len()
        && one_runs
            .iter()
            .zip(other_runs)
            .all(|(one, other)| one == other)
        && (one_rest.is_empty() || one_rest == other_rest)
}

/// What only tests look at.
#[cfg(test)]
impl Pool {
    pub(crate) fn is_idle(&self, id: BlockId) -> bool {
        self.free.contains(id)
    }

    pub(crate) fn idle(&self) -> Vec<u32> {
        self.free.iter(Ring::Ordinary).map(|id| id.0).collect()
    }

    pub(crate) fn idle_kept(&self) -> Vec<u32> {
        self.free.iter(Ring::Kept).map(|id| id.0).collect()
    }

    pub(crate) fn pins_of(&self, identity: BlockIdentity) -> usize {
        self.pins.count(identity)
    }

    pub(crate) fn is_after(&self, id: BlockId, parent: Parent<'_>) -> bool {
        self.follows(id, parent)
    }

    pub(crate) fn content(&self, id: BlockId) -> &[TokenId] {
        self.tokens_of(id)
    }

    pub(crate) fn identity(&self, id: BlockId) -> BlockIdentity {
        self.index.identity(id)
    }
}
