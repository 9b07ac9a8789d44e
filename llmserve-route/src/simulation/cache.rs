//! One replica's KV blocks: held, cached, or free.

use std::collections::HashMap;
use std::hash::BuildHasher;

use llmserve_core::{BlockEvent, BlockIdentity};

const NONE: u32 = u32::MAX;

/// Which blocks are computed, by identity, and in which order the idle ones go. Blocks that are
/// not computed yet have no identity and are only counted.
///
/// A request that ends gives its blocks back last one first, so that of a chain the tail is
/// evicted before what it follows.
#[derive(Debug)]
pub(super) struct Cache {
    capacity: usize,
    /// Blocks of running requests that are not computed yet.
    blank: usize,
    places: HashMap<BlockIdentity, u32, Identities>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Nodes that nobody holds, from the longest idle on.
    oldest: u32,
    newest: u32,
    idle: usize,
    events: Vec<BlockEvent>,
}

#[derive(Debug)]
struct Node {
    identity: BlockIdentity,
    holders: u32,
    older: u32,
    newer: u32,
}

/// Identities are hashes already. The order of the map is never looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Identities;

impl BuildHasher for Identities {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(0)
    }
}

struct Folded(u64);

impl std::hash::Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, identity: u128) {
        self.0 = identity as u64;
    }
}

/// What a running request has.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Computed ones, in order.
    held: Vec<u32>,
    /// Those that are not.
    blank: usize,
}

impl Blocks {
    /// How many are computed.
    pub(super) fn computed(&self) -> usize {
        self.held.len()
    }
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            blank: 0,
            places: HashMap::default(),
            nodes: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            idle: 0,
            events: Vec::new(),
        }
    }

    /// Room for a request of `total` blocks, of which those of `chain` that are cached are found,
    /// `most` at the most. None, and nothing has changed: it does not fit now.
    pub(super) fn open(
        &mut self,
        chain: &[BlockIdentity],
        most: usize,
        total: usize,
    ) -> Option<Blocks> {
        let found = chain[..most.min(chain.len())].iter();
        let held: Vec<u32> = found
            .map_while(|identity| self.places.get(identity).copied())
            .collect();
        let blank = total.saturating_sub(held.len());
        let idle_hits = held
            .iter()
            .filter(|at| self.nodes[**at as usize].holders == 0)
            .count();
        let free = self.capacity - self.blank - self.places.len();
        if free + self.idle - idle_hits < blank {
            return None;
        }
        held.iter().for_each(|at| self.hold(*at));
        for _ in free..blank {
            self.evict();
        }
        self.blank += blank;
        Some(Blocks { held, blank })
    }

    /// The next block of a request is computed, and is `identity`.
    pub(super) fn computed(&mut self, blocks: &mut Blocks, identity: BlockIdentity) {
        blocks.blank -= 1;
        self.blank -= 1;
        if let Some(at) = self.places.get(&identity).copied() {
            // Somebody else computed the same meanwhile: one of them goes.
            self.hold(at);
            blocks.held.push(at);
            return;
        }
        let node = Node {
            identity,
            holders: 1,
            older: NONE,
            newer: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let parent = blocks.held.last();
        let parent = parent.map(|at| self.nodes[*at as usize].identity);
        self.places.insert(identity, at);
        self.events.push(BlockEvent::Stored {
            identity,
            parent,
            tokens: Vec::new(),
        });
        blocks.held.push(at);
    }

    /// A request has ended. What it has computed stays until the room is needed.
    pub(super) fn close(&mut self, blocks: Blocks) {
        self.blank -= blocks.blank;
        for at in blocks.held.into_iter().rev() {
            let node = &mut self.nodes[at as usize];
            node.holders -= 1;
            if node.holders == 0 {
                (node.older, node.newer) = (self.newest, NONE);
                match self.nodes.get_mut(self.newest as usize) {
                    Some(newest) => newest.newer = at,
                    None => self.oldest = at,
                }
                self.newest = at;
                self.idle += 1;
            }
        }
    }

    /// What was stored and removed since the last call.
    pub(super) fn take_events(&mut self) -> std::vec::Drain<'_, BlockEvent> {
        self.events.drain(..)
    }

    /// Whether there is something to [take](Self::take_events).
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn hold(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        node.holders += 1;
        if node.holders == 1 {
            self.unlink(at);
        }
    }

    fn unlink(&mut self, at: u32) {
        let Node { older, newer, .. } = self.nodes[at as usize];
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        self.idle -= 1;
    }

    fn evict(&mut self) {
        let at = self.oldest;
        let Some(node) = self.nodes.get(at as usize) else {
            return;
        };
        let identity = node.identity;
        self.unlink(at);
        self.places.remove(&identity);
        self.free.push(at);
        self.events.push(BlockEvent::Removed { identity });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    fn chain(of: u128, blocks: usize) -> Vec<BlockIdentity> {
        let block = |at| BlockIdentity::from_u128(of << 32 | at as u128);
        (0..blocks).map(block).collect()
    }

    fn run(cache: &mut Cache, chain: &[BlockIdentity]) -> Option<usize> {
        let mut blocks = cache.open(chain, chain.len(), chain.len())?;
        let hits = blocks.computed();
        for identity in &chain[hits..] {
            cache.computed(&mut blocks, *identity);
        }
        cache.close(blocks);
        Some(hits)
    }

    #[test]
    fn tails_go_first_and_the_longest_idle_before_others() {
        let mut cache = Cache::new(8);
        let (a, b, c) = (chain(1, 4), chain(2, 4), chain(3, 3));
        assert_eq!(run(&mut cache, &a), Some(0));
        assert_eq!(run(&mut cache, &b), Some(0));
        assert_eq!(run(&mut cache, &a), Some(4));
        cache.take_events();
        assert_eq!(run(&mut cache, &c), Some(0));
        let removed: Vec<_> = cache
            .take_events()
            .filter_map(|event| match event {
                BlockEvent::Removed { identity } => Some(identity),
                _ => None,
            })
            .collect();
        assert_eq!(removed, [b[3], b[2], b[1]]);
        assert_eq!(run(&mut cache, &b[..1]), Some(1));
        assert_eq!(run(&mut cache, &chain(4, 9)), None);
    }

    #[test]
    fn what_is_told_is_what_is_there_and_nothing_is_lost() {
        let rng = Rng::seeded(4);
        let mut cache = Cache::new(40);
        let mut running: Vec<(Blocks, Vec<BlockIdentity>)> = Vec::new();
        let mut told = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            if rng.below(2) == 0 {
                let of = chain(rng.below(12) as u128, 1 + rng.below(8));
                let total = of.len() + rng.below(3);
                let before = cache.has_events();
                match cache.open(&of, of.len(), total) {
                    Some(blocks) => running.push((blocks, of)),
                    None => assert_eq!(before, cache.has_events()),
                }
            } else if !running.is_empty() {
                let at = rng.below(running.len());
                let (blocks, of) = &mut running[at];
                if blocks.computed() < of.len() && rng.below(4) > 0 {
                    let identity = of[blocks.computed()];
                    cache.computed(blocks, identity);
                } else {
                    let (blocks, _) = running.swap_remove(at);
                    cache.close(blocks);
                }
            }
            for event in cache.take_events() {
                match event {
                    BlockEvent::Stored { identity, .. } => assert!(told.insert(identity)),
                    BlockEvent::Removed { identity } => assert!(told.remove(&identity)),
                    _ => unreachable!("it never clears"),
                }
            }
            assert_eq!(told.len(), cache.places.len());
            assert!(cache.blank + cache.places.len() <= 40);
            // Chains have no gaps: who has a block has those before it.
            for identity in &told {
                let before = identity.as_u128().wrapping_sub(1);
                let first = identity.as_u128() & 0xffff_ffff == 0;
                assert!(first || told.contains(&BlockIdentity::from_u128(before)));
            }
        }
        running
            .drain(..)
            .for_each(|(blocks, _)| cache.close(blocks));
        assert_eq!((cache.blank, cache.idle), (0, cache.places.len()));
    }
}
