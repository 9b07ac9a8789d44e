//! The blocks nobody holds, least recently used first.
//!
//! Doubly linked lists threaded through one array indexed by block, each with a sentinel that
//! closes its ring, so that every operation is O(1) and nothing is ever allocated:
//!
//! ```text
//!  ordinary   sentinel ⇄ next to be taken ⇄ … ⇄ last given back ⇄ sentinel
//!  kept       sentinel ⇄ next once those are gone ⇄ …           ⇄ sentinel
//! ```
//!
//! A node removed from the middle keeps its own links. Undoing removals in reverse order therefore
//! restores the list exactly (Knuth's dancing links), and nodes taken from the front are put back
//! there, which is how a dropped claim leaves no trace.

use llmserve_core::BlockId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    prev: u32,
    next: u32,
}

/// Which of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Taken first.
    Ordinary,
    /// Taken when there are no others.
    Kept,
}

/// Intrusive lists over the block numbers `0..blocks`; a block is in one of them at most, and once.
#[derive(Clone, Debug)]
pub(crate) struct FreeList {
    /// One link a block, and the sentinels' last.
    links: Vec<Link>,
    /// Blocks in both.
    len: usize,
}

impl FreeList {
    /// An empty list that can hold the blocks `0..blocks`.
    pub(crate) fn empty(blocks: u32) -> Self {
        let alone = |at| Link { prev: at, next: at };
        let mut links = vec![alone(blocks); blocks as usize + 1];
        links.push(alone(blocks + 1));
        Self { links, len: 0 }
    }

    /// All of the blocks `0..blocks`, in order, as ordinary ones.
    pub(crate) fn full(blocks: u32) -> Self {
        let mut list = Self::empty(blocks);
        (0..blocks).for_each(|block| list.push_back(BlockId(block), Ring::Ordinary));
        list
    }

    /// Blocks in the lists.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether `block` is in a list.
    pub(crate) fn contains(&self, block: BlockId) -> bool {
        // Removing a node points its predecessor past it, and only linking it points back; one
        // popped counts as its own predecessor.
        self.links[self.links[block.index()].prev as usize].next == block.0
    }

    /// Moves the first `blocks` blocks, ordinary ones before kept ones, to the end of `out`; false,
    /// having done nothing, when there are fewer.
    pub(crate) fn pop(&mut self, blocks: usize, out: &mut Vec<BlockId>) -> bool {
        if blocks > self.len {
            return false;
        }
        let mut sentinel = self.sentinel(Ring::Ordinary) as u32;
        let mut at = self.links[sentinel as usize].next;
        out.extend((0..blocks).map(|_| {
            if at == sentinel {
                self.links[sentinel as usize] = Link { prev: at, next: at };
                sentinel = self.sentinel(Ring::Kept) as u32;
                at = self.links[sentinel as usize].next;
            }
            let taken = at;
            let link = &mut self.links[taken as usize];
            // Its neighbours may be taken as well and go on pointing to it: it is not in the list
            // because it does not point to itself.
            link.prev = taken;
            at = link.next;
            BlockId(taken)
        }));
        self.links[sentinel as usize].next = at;
        self.links[at as usize].prev = sentinel;
        self.len -= blocks;
        true
    }

    /// Takes `block` out from wherever it is. False when it is in no list.
    pub(crate) fn remove(&mut self, block: BlockId) -> bool {
        if !self.contains(block) {
            return false;
        }
        let Link { prev, next } = self.links[block.index()];
        self.links[prev as usize].next = next;
        self.links[next as usize].prev = prev;
        self.len -= 1;
        true
    }

    /// Undoes the latest [removal](Self::remove) that was not undone yet, which must be that of `block`; nothing
    /// else may have happened to the lists in between.
    pub(crate) fn restore(&mut self, block: BlockId) {
        debug_assert!(!self.contains(block));
        let Link { prev, next } = self.links[block.index()];
        self.links[prev as usize].next = block.0;
        self.links[next as usize].prev = block.0;
        self.len += 1;
    }

    /// Puts `block`, which is in no list, behind all others of `ring`.
    pub(crate) fn push_back(&mut self, block: BlockId, ring: Ring) {
        let sentinel = self.sentinel(ring);
        self.link(block, self.links[sentinel].prev, sentinel as u32);
    }

    /// Puts `block`, which is in no list, before all others of `ring`.
    pub(crate) fn push_front(&mut self, block: BlockId, ring: Ring) {
        let sentinel = self.sentinel(ring);
        self.link(block, sentinel as u32, self.links[sentinel].next);
    }

    /// The blocks of a ring, first to last.
    #[cfg(test)]
    pub(crate) fn iter(&self, ring: Ring) -> impl Iterator<Item = BlockId> + '_ {
        let sentinel = self.sentinel(ring);
        let mut at = sentinel;
        std::iter::from_fn(move || {
            at = self.links[at].next as usize;
            (at != sentinel).then_some(BlockId(at as u32))
        })
    }

    fn sentinel(&self, ring: Ring) -> usize {
        self.links.len() - 2 + ring as usize
    }

    fn link(&mut self, block: BlockId, prev: u32, next: u32) {
        debug_assert!(!self.contains(block));
        self.links[block.index()] = Link { prev, next };
        self.links[prev as usize].next = block.0;
        self.links[next as usize].prev = block.0;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn order(list: &FreeList) -> Vec<u32> {
        list.iter(Ring::Ordinary).map(|block| block.0).collect()
    }

    fn kept(list: &FreeList) -> Vec<u32> {
        list.iter(Ring::Kept).map(|block| block.0).collect()
    }

    fn pop(list: &mut FreeList, blocks: usize) -> Vec<u32> {
        let mut out = Vec::new();
        assert!(list.pop(blocks, &mut out));
        out.into_iter().map(|block| block.0).collect()
    }

    fn prepend(list: &mut FreeList, blocks: &[u32]) {
        blocks
            .iter()
            .rev()
            .for_each(|&block| list.push_front(BlockId(block), Ring::Ordinary));
    }

    #[test]
    fn pop_remove_append_keep_the_order() {
        let mut list = FreeList::full(5);
        assert_eq!(pop(&mut list, 1), [0]);
        assert!(list.remove(BlockId(2)));
        list.push_back(BlockId(2), Ring::Ordinary);
        assert_eq!(order(&list), [1, 3, 4, 2]);
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn an_empty_list_has_nothing_to_pop() {
        let mut list = FreeList::full(1);
        assert_eq!(pop(&mut list, 1), [0]);
        assert!(!list.pop(1, &mut Vec::new()));
        assert_eq!(list.len(), 0);
        assert!(!list.remove(BlockId(0)));
    }

    #[test]
    fn prepending_groups_puts_the_latest_first() {
        let mut list = FreeList::empty(6);
        list.push_back(BlockId(0), Ring::Ordinary);
        prepend(&mut list, &[4, 5]);
        prepend(&mut list, &[1, 2]);
        assert_eq!(order(&list), [1, 2, 4, 5, 0]);
    }

    #[test]
    fn kept_ones_go_when_the_others_are_gone() {
        let mut list = FreeList::full(5);
        for block in [1, 3] {
            assert!(list.remove(BlockId(block)));
            list.push_back(BlockId(block), Ring::Kept);
        }
        assert_eq!((order(&list), kept(&list)), (vec![0, 2, 4], vec![1, 3]));
        assert!(!list.pop(6, &mut Vec::new()));
        assert_eq!(pop(&mut list, 4), [0, 2, 4, 1]);
        assert_eq!((order(&list), kept(&list)), (vec![], vec![3]));
        assert!(list.contains(BlockId(3)) && !list.contains(BlockId(1)));
        list.push_front(BlockId(1), Ring::Kept);
        assert_eq!(kept(&list), [1, 3]);
        assert_eq!(list.len(), 2);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Pop(usize),
        Remove(u32),
        Back(u32, Ring),
        Front(u32, Ring),
        /// Remove these, pop some, and undo it.
        Undo(Vec<u32>, usize),
    }

    fn ring() -> impl Strategy<Value = Ring> {
        prop_oneof![Just(Ring::Ordinary), Just(Ring::Kept)]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..6usize).prop_map(Op::Pop),
            (0..8u32).prop_map(Op::Remove),
            (0..8u32, ring()).prop_map(|(block, ring)| Op::Back(block, ring)),
            (0..8u32, ring()).prop_map(|(block, ring)| Op::Front(block, ring)),
            (proptest::collection::vec(0..8u32, 0..6), 0..6usize)
                .prop_map(|(removed, popped)| Op::Undo(removed, popped)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_two_deques(ops in proptest::collection::vec(op(), 0..80)) {
            let mut list = FreeList::empty(8);
            let mut model = [VecDeque::<u32>::new(), VecDeque::new()];
            for op in ops {
                let within = |model: &[VecDeque<u32>; 2], block| {
                    model.iter().position(|ring| ring.contains(&block))
                };
                match op {
                    Op::Pop(blocks) => {
                        let mut out = vec![BlockId(99)];
                        let popped = list.pop(blocks, &mut out);
                        let all: usize = model.iter().map(VecDeque::len).sum();
                        prop_assert_eq!(popped, blocks <= all);
                        let mut expected = vec![99];
                        while popped && expected.len() <= blocks {
                            let next = model.iter_mut().find_map(VecDeque::pop_front);
                            expected.extend(next);
                        }
                        prop_assert_eq!(out.iter().map(|b| b.0).collect::<Vec<_>>(), expected);
                    }
                    Op::Remove(block) => {
                        let ring = within(&model, block);
                        prop_assert_eq!(list.remove(BlockId(block)), ring.is_some());
                        if let Some(ring) = ring {
                            model[ring].retain(|other| *other != block);
                        }
                    }
                    Op::Back(block, ring) if within(&model, block).is_none() => {
                        list.push_back(BlockId(block), ring);
                        model[ring as usize].push_back(block);
                    }
                    Op::Front(block, ring) if within(&model, block).is_none() => {
                        list.push_front(BlockId(block), ring);
                        model[ring as usize].push_front(block);
                    }
                    Op::Back(..) | Op::Front(..) => {}
                    Op::Undo(blocks, popped) => {
                        let removed: Vec<u32> =
                            blocks.into_iter().filter(|&b| list.remove(BlockId(b))).collect();
                        let mut out = Vec::new();
                        list.pop(popped, &mut out);
                        for block in out.iter().rev() {
                            let kept = model[Ring::Kept as usize].contains(&block.0);
                            let ring = if kept { Ring::Kept } else { Ring::Ordinary };
                            list.push_front(*block, ring);
                        }
                        removed.iter().rev().for_each(|&b| list.restore(BlockId(b)));
                    }
                }
                for (ring, order) in [(Ring::Ordinary, order(&list)), (Ring::Kept, kept(&list))] {
                    let expected: Vec<u32> = model[ring as usize].iter().copied().collect();
                    prop_assert_eq!(order, expected);
                }
                prop_assert_eq!(list.len(), model.iter().map(VecDeque::len).sum::<usize>());
                for block in 0..8 {
                    prop_assert_eq!(list.contains(BlockId(block)), within(&model, block).is_some());
                }
            }
        }
    }
}
