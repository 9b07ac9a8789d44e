//! What one replica is assumed to have, the longest untouched first.

use std::collections::HashMap;

use llmserve_core::{BlockIdentity, Time};

use super::table::ByIdentity;

const NONE: u32 = u32::MAX;

/// A map with an order of last touch. What is touched last goes last.
#[derive(Debug)]
pub(super) struct Assumed {
    places: HashMap<BlockIdentity, u32, ByIdentity>,
    nodes: Vec<Node>,
    /// Nodes that hold nothing, linked by `next`.
    free: u32,
    oldest: u32,
    newest: u32,
}

#[derive(Debug)]
struct Node {
    identity: BlockIdentity,
    touched: Time,
    older: u32,
    newer: u32,
}

impl Default for Assumed {
    fn default() -> Self {
        Self {
            places: HashMap::default(),
            nodes: Vec::new(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl Assumed {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Makes `identity` the newest, if it is there; whether it is.
    pub(super) fn renew(&mut self, identity: BlockIdentity, now: Time) -> bool {
        let Some(at) = self.places.get(&identity).copied() else {
            return false;
        };
        self.unlink(at);
        self.link(at);
        self.nodes[at as usize].touched = now;
        true
    }

    /// Adds `identity`, which is not there, as the newest.
    pub(super) fn push(&mut self, identity: BlockIdentity, now: Time) {
        let node = Node {
            identity,
            touched: now,
            older: NONE,
            newer: NONE,
        };
        let at = if self.free == NONE {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.nodes[at as usize].newer;
            self.nodes[at as usize] = node;
            at
        };
        self.places.insert(identity, at);
        self.link(at);
    }

    /// The longest untouched, and when that was.
    pub(super) fn oldest(&self) -> Option<(BlockIdentity, Time)> {
        let node = self.nodes.get(self.oldest as usize)?;
        Some((node.identity, node.touched))
    }

    /// Forgets `identity`; whether it was there.
    pub(super) fn remove(&mut self, identity: BlockIdentity) -> bool {
        if self.places.is_empty() {
            return false;
        }
        let Some(at) = self.places.remove(&identity) else {
            return false;
        };
        self.unlink(at);
        self.nodes[at as usize].newer = self.free;
        self.free = at;
        true
    }

    fn link(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        (node.older, node.newer) = (self.newest, NONE);
        match self.nodes.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    #[test]
    fn does_what_a_list_does() {
        let rng = Rng::seeded(8);
        let (mut assumed, mut naive) = (Assumed::default(), Vec::<(u128, u64)>::new());
        for now in 0..5_000 {
            let identity = rng.below(40) as u128;
            let at = naive.iter().position(|(has, _)| *has == identity);
            let block = BlockIdentity::from_u128(identity);
            if rng.below(2) == 0 {
                assert_eq!(assumed.renew(block, Time::from_secs(now)), at.is_some());
                if at.is_none() {
                    assumed.push(block, Time::from_secs(now));
                }
                at.map(|at| naive.remove(at));
                naive.push((identity, now));
            } else {
                assert_eq!(assumed.remove(block), at.is_some());
                at.map(|at| naive.remove(at));
            }
            let oldest = naive.first();
            let oldest =
                oldest.map(|(id, at)| (BlockIdentity::from_u128(*id), Time::from_secs(*at)));
            assert_eq!(assumed.oldest(), oldest);
            assert_eq!(
                (assumed.len(), assumed.is_empty()),
                (naive.len(), naive.is_empty())
            );
        }
        assert!(assumed.nodes.len() <= 40);
    }
}
