//! The blocks nobody holds, least recently used first.
//!
//! A doubly linked list threaded through one array indexed by block, with a sentinel that closes
//! the ring, so that every operation is O(1) and nothing is ever allocated:
//!
//! ```text
//!  sentinel ⇄ next to be taken ⇄ … ⇄ last given back ⇄ sentinel
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

/// An intrusive list over the block numbers `0..blocks`; a block is in it at most once.
#[derive(Clone, Debug)]
pub(crate) struct FreeList {
    /// One link a block, and the sentinel's last.
    links: Vec<Link>,
    len: usize,
}

impl FreeList {
    /// An empty list that can hold the blocks `0..blocks`.
    pub(crate) fn empty(blocks: u32) -> Self {
        let sentinel = Link {
            prev: blocks,
            next: blocks,
        };
        Self {
            links: vec![sentinel; blocks as usize + 1],
            len: 0,
        }
    }

    /// All of the blocks `0..blocks`, in order.
    pub(crate) fn full(blocks: u32) -> Self {
        let mut list = Self::empty(blocks);
        (0..blocks).for_each(|block| list.push_back(BlockId(block)));
        list
    }

    /// Blocks in the list.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether `block` is in the list.
    pub(crate) fn contains(&self, block: BlockId) -> bool {
        // Removing a node points its predecessor past it, and only linking it points back; one
        // popped counts as its own predecessor.
        self.links[self.links[block.index()].prev as usize].next == block.0
    }

    /// Moves the first `blocks` blocks to the end of `out`, first to last; false, having done
    /// nothing, when there are fewer.
    pub(crate) fn pop(&mut self, blocks: usize, out: &mut Vec<BlockId>) -> bool {
        if blocks > self.len {
            return false;
        }
        let sentinel = self.sentinel();
        let mut at = self.links[sentinel].next;
        out.extend((0..blocks).map(|_| {
            let taken = at;
            let link = &mut self.links[taken as usize];
            // Its neighbours may be taken as well and go on pointing to it: it is not in the list
            // because it does not point to itself.
            link.prev = taken;
            at = link.next;
            BlockId(taken)
        }));
        self.links[sentinel].next = at;
        self.links[at as usize].prev = sentinel as u32;
        self.len -= blocks;
        true
    }

    /// Takes `block` out from wherever it is. False when it is not in the list.
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
    /// else may have happened to the list in between.
    pub(crate) fn restore(&mut self, block: BlockId) {
        debug_assert!(!self.contains(block));
        let Link { prev, next } = self.links[block.index()];
        self.links[prev as usize].next = block.0;
        self.links[next as usize].prev = block.0;
        self.len += 1;
    }

    /// Puts `block`, which is not in the list, behind all others.
    pub(crate) fn push_back(&mut self, block: BlockId) {
        let sentinel = self.sentinel() as u32;
        self.link(block, self.links[self.sentinel()].prev, sentinel);
    }

    /// Puts `block`, which is not in the list, before all others.
    pub(crate) fn push_front(&mut self, block: BlockId) {
        let sentinel = self.sentinel() as u32;
        self.link(block, sentinel, self.links[self.sentinel()].next);
    }

    /// The blocks, first to last.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = BlockId> + '_ {
        let mut at = self.sentinel();
        std::iter::from_fn(move || {
            at = self.links[at].next as usize;
            (at != self.sentinel()).then_some(BlockId(at as u32))
        })
    }

    fn sentinel(&self) -> usize {
        self.links.len() - 1
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
        list.iter().map(|block| block.0).collect()
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
            .for_each(|&block| list.push_front(BlockId(block)));
    }

    #[test]
    fn pop_remove_append_keep_the_order() {
        let mut list = FreeList::full(5);
        assert_eq!(pop(&mut list, 1), [0]);
        assert!(list.remove(BlockId(2)));
        list.push_back(BlockId(2));
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
        list.push_back(BlockId(0));
        prepend(&mut list, &[4, 5]);
        prepend(&mut list, &[1, 2]);
        assert_eq!(order(&list), [1, 2, 4, 5, 0]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Pop(usize),
        Remove(u32),
        Back(u32),
        Front(u32),
        /// Remove these, pop some, and undo it.
        Undo(Vec<u32>, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..6usize).prop_map(Op::Pop),
            (0..8u32).prop_map(Op::Remove),
            (0..8u32).prop_map(Op::Back),
            (0..8u32).prop_map(Op::Front),
            (proptest::collection::vec(0..8u32, 0..6), 0..6usize)
                .prop_map(|(removed, popped)| Op::Undo(removed, popped)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_deque(ops in proptest::collection::vec(op(), 0..80)) {
            let mut list = FreeList::empty(8);
            let mut model: VecDeque<u32> = VecDeque::new();
            for op in ops {
                match op {
                    Op::Pop(blocks) => {
                        let mut out = vec![BlockId(99)];
                        let popped = list.pop(blocks, &mut out);
                        prop_assert_eq!(popped, blocks <= model.len());
                        let expected = model.drain(..if popped { blocks } else { 0 });
                        let expected: Vec<u32> = std::iter::once(99).chain(expected).collect();
                        prop_assert_eq!(out.iter().map(|b| b.0).collect::<Vec<_>>(), expected);
                    }
                    Op::Remove(block) => {
                        let at = model.iter().position(|&b| b == block);
                        prop_assert_eq!(list.remove(BlockId(block)), at.is_some());
                        at.map(|at| model.remove(at));
                    }
                    Op::Back(block) if !model.contains(&block) => {
                        list.push_back(BlockId(block));
                        model.push_back(block);
                    }
                    Op::Front(block) if !model.contains(&block) => {
                        list.push_front(BlockId(block));
                        model.push_front(block);
                    }
                    Op::Back(_) | Op::Front(_) => {}
                    Op::Undo(blocks, popped) => {
                        let removed: Vec<u32> =
                            blocks.into_iter().filter(|&b| list.remove(BlockId(b))).collect();
                        let mut out = Vec::new();
                        list.pop(popped, &mut out);
                        out.iter().rev().for_each(|&b| list.push_front(b));
                        removed.iter().rev().for_each(|&b| list.restore(BlockId(b)));
                    }
                }
                prop_assert_eq!(order(&list), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(list.len(), model.len());
                for block in 0..8 {
                    prop_assert_eq!(list.contains(BlockId(block)), model.contains(&block));
                }
            }
        }
    }
}
