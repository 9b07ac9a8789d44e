//! From an identity to the blocks that carry it.
//!
//! A hash table with chaining whose links are threaded through an array indexed by block: its
//! size is fixed when it is made, so neither inserting nor removing ever allocates or rehashes.
//! Identities are hashes already; their low bits choose the bucket. There are twice as many buckets
//! as blocks or more, so that as a rule an empty bucket tells that an identity is not there.
//!
//! ```text
//!  buckets   [ 7 │ – │ 2 │ … ]          identity & mask ─► first block of the chain
//!              │       │
//!              ▼       ▼
//!  links     7 ⇄ 4     2                several blocks may carry one identity
//! ```

use llmserve_core::{BlockId, BlockIdentity};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    identity: BlockIdentity,
    prev: u32,
    next: u32,
}

/// Which blocks carry an identity. Duplicates are allowed: each block is an entry of its own.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<u32>,
    entries: Vec<Entry>,
}

impl Index {
    /// An empty index over the blocks `0..blocks`.
    pub(crate) fn new(blocks: u32) -> Self {
        let unused = Entry {
            identity: BlockIdentity::from_u128(0),
            prev: NONE,
            next: NONE,
        };
        Self {
            buckets: vec![NONE; (2 * blocks as usize).next_power_of_two()],
            entries: vec![unused; blocks as usize],
        }
    }

    /// Adds `block`, which must not be in the index.
    pub(crate) fn insert(&mut self, block: BlockId, identity: BlockIdentity) {
        let bucket = self.bucket(identity);
        let next = std::mem::replace(&mut self.buckets[bucket], block.0);
        if next != NONE {
            self.entries[next as usize].prev = block.0;
        }
        self.entries[block.index()] = Entry {
            identity,
            prev: NONE,
            next,
        };
    }

    /// Removes `block`, which must be in the index, and tells what it was. Other blocks with the
    /// same identity stay.
    pub(crate) fn remove(&mut self, block: BlockId) -> BlockIdentity {
        let Entry {
            identity,
            prev,
            next,
        } = self.entries[block.index()];
        if prev == NONE {
            let bucket = self.bucket(identity);
            self.buckets[bucket] = next;
        } else {
            self.entries[prev as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        identity
    }

    /// All blocks with this identity, the latest first. Whether their content is the one looked
    /// for is the caller's to compare.
    pub(crate) fn candidates(&self, identity: BlockIdentity) -> impl Iterator<Item = BlockId> + '_ {
        let mut at = self.buckets[self.bucket(identity)];
        std::iter::from_fn(move || {
            while at != NONE {
                let block = at;
                let entry = &self.entries[block as usize];
                at = entry.next;
                if entry.identity == identity {
                    return Some(BlockId(block));
                }
            }
            None
        })
    }

    #[cfg(test)]
    pub(crate) fn identity(&self, block: BlockId) -> BlockIdentity {
        self.entries[block.index()].identity
    }

    fn bucket(&self, identity: BlockIdentity) -> usize {
        identity.as_u128() as usize & (self.buckets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn found(index: &Index, identity: u128) -> Vec<u32> {
        let mut blocks: Vec<u32> = index
            .candidates(BlockIdentity::from_u128(identity))
            .map(|block| block.0)
            .collect();
        blocks.sort_unstable();
        blocks
    }

    #[test]
    fn removing_one_duplicate_leaves_the_other_findable() {
        let mut index = Index::new(4);
        let twin = BlockIdentity::from_u128(9);
        index.insert(BlockId(1), twin);
        index.insert(BlockId(3), twin);
        assert_eq!(found(&index, 9), [1, 3]);
        assert_eq!(index.remove(BlockId(3)), twin);
        assert_eq!(found(&index, 9), [1]);
        index.remove(BlockId(1));
        assert_eq!(found(&index, 9), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn it_is_a_multimap(ops in proptest::collection::vec((0..9u32, 0..40u128), 0..120)) {
            let mut index = Index::new(9);
            let mut model: BTreeMap<u32, u128> = BTreeMap::new();
            for (block, identity) in ops {
                if let Some(was) = model.remove(&block) {
                    prop_assert_eq!(index.remove(BlockId(block)).as_u128(), was);
                } else {
                    index.insert(BlockId(block), BlockIdentity::from_u128(identity));
                    model.insert(block, identity);
                }
                for identity in 0..40 {
                    let expected: Vec<u32> =
                        model.iter().filter(|(_, i)| **i == identity).map(|(b, _)| *b).collect();
                    prop_assert_eq!(found(&index, identity), expected);
                }
            }
        }
    }
}
