//! What is pinned, and which block is kept for it.
//!
//! ```text
//!  pins     identity ─► how often      named by pins, whether cached or not
//!  kept     one sealed block of each   the latest line of content that carries the identity
//! ```
//!
//! A kept block that nobody holds waits in a [ring](crate::free_list::Ring) of its own, from which
//! blocks are taken when there are no others. So pins decide who is evicted first and nothing else.
//!
//! Only a sealed block is kept, and of twins only one. One whose parents were computed anew is kept
//! in the place of what is left from before, which nothing leads to any more. Two contents that
//! share an identity by accident or malice share its place: the wrong one of them may stay longer,
//! and the right one no longer than if it were not pinned.

use std::collections::HashMap;
use std::sync::Arc;

use llmserve_core::{BlockId, BlockIdentity, Extras, KvError, TokenId};

use super::{Lineage, Parent, Pool};
use crate::free_list::Ring;

/// The pinned identities.
#[derive(Debug, Default)]
pub(super) struct Pins {
    counts: HashMap<BlockIdentity, usize>,
    limit: usize,
}

#[cfg(test)]
impl Pins {
    pub(super) fn count(&self, identity: BlockIdentity) -> usize {
        self.counts.get(&identity).copied().unwrap_or(0)
    }
}

impl Pool {
    /// Most identities that may be pinned.
    pub(crate) fn limit_pins(&mut self, limit: usize) {
        self.pins.limit = limit;
    }

    /// Identities that are pinned.
    pub(crate) fn pinned(&self) -> usize {
        self.pins.counts.len()
    }

    /// Pins identities, of which the front `cached` blocks hold the content.
    ///
    /// # Errors
    /// [`KvError::TooManyPinned`], having changed nothing.
    pub(crate) fn pin(
        &mut self,
        identities: &[BlockIdentity],
        cached: &[BlockId],
    ) -> Result<(), KvError> {
        let Pins { counts, limit } = &mut self.pins;
        let new = identities.iter().filter(|it| !counts.contains_key(it));
        let (pinned, wanted, limit) = (counts.len(), new.count(), *limit);
        if pinned + wanted > limit {
            return Err(KvError::TooManyPinned {
                pinned,
                wanted,
                limit,
            });
        }
        for identity in identities {
            *counts.entry(*identity).or_default() += 1;
        }
        // Last first, as sequences give blocks back: a head is evicted after its tail.
        for (id, identity) in cached.iter().zip(identities).rev() {
            self.keep(*id, *identity);
        }
        Ok(())
    }

    /// Takes a pin of these identities back.
    pub(crate) fn unpin(&mut self, identities: &[BlockIdentity]) {
        for identity in identities.iter().rev() {
            let Some(count) = self.pins.counts.get_mut(identity) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.pins.counts.remove(identity);
                if let Some(id) = self.kept_for(*identity) {
                    self.let_be(id);
                }
            }
        }
    }

    /// The sealed blocks that hold the front of `tokens`, found by content.
    pub(crate) fn sealed_front(
        &self,
        identities: &[BlockIdentity],
        extras: &Arc<Extras>,
        tokens: &[TokenId],
    ) -> Vec<BlockId> {
        let mut found = Vec::new();
        let mut parent = Parent::Root(extras);
        for (&identity, tokens) in identities.iter().zip(tokens.chunks_exact(self.block_size)) {
            let id = self.find(identity, parent, tokens);
            let Some(lineage) = id.and_then(|id| self.lineage(id)) else {
                break;
            };
            let Some(id) = self.sealed_of(identity, lineage) else {
                break;
            };
            found.push(id);
            parent = Parent::After(lineage);
        }
        found
    }

    /// A block was sealed: it may be one that a pin waits for.
    #[inline]
    pub(super) fn keep_sealed(&mut self, id: BlockId, identity: BlockIdentity) {
        if !self.pins.counts.is_empty() {
            self.keep_if_pinned(id, identity);
        }
    }

    #[cold]
    fn keep_if_pinned(&mut self, id: BlockId, identity: BlockIdentity) {
        if !self.pins.counts.contains_key(&identity) {
            return;
        }
        let before = self.kept_for(identity).and_then(|kept| self.lineage(kept));
        if before.is_none() || before != self.lineage(id) {
            self.keep(id, identity);
        }
    }

    /// A kept block is idle from now on.
    #[cold]
    pub(super) fn shelve(&mut self, id: BlockId) {
        self.free.push_back(id, Ring::Kept);
    }

    /// A kept block of this line has just been stripped: a twin of it is kept instead.
    #[cold]
    pub(super) fn pass_on(&mut self, identity: BlockIdentity, lineage: Lineage) {
        self.levels.kept -= 1;
        if let Some(twin) = self.sealed_of(identity, lineage) {
            self.keep(twin, identity);
        }
    }

    /// Has a sealed block kept, as the latest used, and no other of its identity.
    fn keep(&mut self, id: BlockId, identity: BlockIdentity) {
        if let Some(other) = self.kept_for(identity).filter(|kept| *kept != id) {
            self.let_be(other);
        }
        if self.set_kept(id, true) {
            self.levels.kept += 1;
        }
        if self.free.remove(id) {
            self.free.push_back(id, Ring::Kept);
        }
    }

    /// Has a kept block evicted like any other.
    fn let_be(&mut self, id: BlockId) {
        if self.set_kept(id, false) {
            self.levels.kept -= 1;
        }
        if self.free.remove(id) {
            self.free.push_back(id, Ring::Ordinary);
        }
    }

    /// Whether that is a change.
    fn set_kept(&mut self, id: BlockId, kept: bool) -> bool {
        match &mut self.blocks[id.index()].label {
            Some(label) => std::mem::replace(&mut label.kept, kept) != kept,
            None => false,
        }
    }

    fn kept_for(&self, identity: BlockIdentity) -> Option<BlockId> {
        let mut candidates = self.index.candidates(identity);
        candidates.find(|id| self.block(*id).is_kept())
    }

    fn sealed_of(&self, identity: BlockIdentity, lineage: Lineage) -> Option<BlockId> {
        let mut candidates = self.index.candidates(identity);
        candidates.find(|id| self.block(*id).is_sealed() && self.lineage(*id) == Some(lineage))
    }
}
