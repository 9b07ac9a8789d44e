//! What replicas are assumed to have, the longest untouched first.
//!
//! A chain is touched at its last block only: what comes before a block is kept for as long as the
//! block is, and takes its place in the order when it goes. So a prompt that was there before costs
//! one touch, however long it is, and tails are forgotten before what they continue.

use llmserve_core::{BlockIdentity, Time};

use super::shards::Shards;
use crate::random::mix;

const NONE: u32 = u32::MAX;

/// What `older` is of nodes that are in no order, being kept by those that continue them.
const KEPT: u32 = u32::MAX - 1;

/// Nodes allocated at once: memory grows without moving what there is.
const CHUNK: usize = 1024;

/// For each seat a set of identities with an order of last touch.
#[derive(Debug)]
pub(super) struct Assumed {
    /// Nodes by identity and seat.
    places: Shards<u32>,
    nodes: Vec<Vec<Node>>,
    /// Nodes that hold nothing, linked by `newer`.
    free: u32,
    /// By seat.
    orders: Vec<Order>,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    len: usize,
    oldest: u32,
    newest: u32,
}

/// What one seat is assumed to have of one block.
#[derive(Clone, Copy, Debug)]
struct Node {
    identity: BlockIdentity,
    touched: Time,
    seat: u32,
    /// How many times this place was given up: a number kept from before means nothing.
    generation: u32,
    /// The one it continues, as it was then.
    before: u32,
    before_generation: u32,
    /// How many continue it.
    after: u32,
    older: u32,
    newer: u32,
}

/// Where something is, for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    at: u32,
    generation: u32,
}

/// The longest untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Oldest {
    pub(super) at: Kept,
    pub(super) identity: BlockIdentity,
    pub(super) touched: Time,
}

/// Where a seat's node of a block is found: identities are 128 bits of a hash, and stay that.
fn place(seat: usize, identity: BlockIdentity) -> BlockIdentity {
    let (high, low) = (mix(seat as u64 + 1), mix(!(seat as u64)));
    BlockIdentity::from_u128(identity.as_u128() ^ (u128::from(high) << 64 | u128::from(low)))
}

impl Assumed {
    pub(super) fn new() -> Self {
        Self {
            places: Shards::new(),
            nodes: Vec::new(),
            free: NONE,
            orders: Vec::new(),
        }
    }

    /// How much `seat` has.
    pub(super) fn len(&self, seat: usize) -> usize {
        self.orders.get(seat).map_or(0, |order| order.len)
    }

    pub(super) fn is_empty(&self, seat: usize) -> bool {
        self.len(seat) == 0
    }

    /// Makes `identity`, and with it what it continues, the newest; where it is, if it is there.
    pub(super) fn touch(
        &mut self,
        seat: usize,
        identity: BlockIdentity,
        now: Time,
    ) -> Option<Kept> {
        let at = *self.places.get(place(seat, identity))?;
        self.unlink(at);
        self.link_newest(at);
        self.node_mut(at).touched = now;
        Some(self.kept(at))
    }

    /// Adds `identity`, which is not there and continues what is at `before`, as the newest; where
    /// it is.
    pub(super) fn push(
        &mut self,
        seat: usize,
        identity: BlockIdentity,
        before: Option<Kept>,
        now: Time,
    ) -> Kept {
        if seat >= self.orders.len() {
            self.orders.resize(seat + 1, Order::default());
        }
        let mut node = Node {
            identity,
            touched: now,
            seat: seat as u32,
            generation: 0,
            before: NONE,
            before_generation: 0,
            after: 0,
            older: KEPT,
            newer: NONE,
        };
        if let Some(Kept { at, generation }) = before
            && self.node(at).generation == generation
        {
            self.unlink(at);
            let kept = self.node_mut(at);
            kept.after += 1;
            // It may have been touched since: what continues it is no older.
            node.touched = now.max(kept.touched);
            (node.before, node.before_generation) = (at, generation);
        }
        let at = if self.free == NONE {
            if self.nodes.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.nodes.push(Vec::with_capacity(CHUNK));
            }
            let at = (self.nodes.len() - 1) * CHUNK;
            let chunk = self.nodes.last_mut();
            chunk.map_or(NONE, |chunk| {
                chunk.push(node);
                (at + chunk.len() - 1) as u32
            })
        } else {
            let at = self.free;
            let place = self.node_mut(at);
            node.generation = place.generation;
            let free = place.newer;
            *place = node;
            self.free = free;
            at
        };
        self.places
            .of(place(seat, identity))
            .insert(place(seat, identity), at);
        self.orders[seat].len += 1;
        self.link_newest(at);
        self.kept(at)
    }

    fn kept(&self, at: u32) -> Kept {
        let generation = self.node(at).generation;
        Kept { at, generation }
    }

    /// The longest untouched of those of `seat` that nothing continues.
    pub(super) fn oldest(&mut self, seat: usize) -> Option<Oldest> {
        loop {
            let at = self.orders.get(seat)?.oldest;
            if at == NONE {
                return None;
            }
            let node = *self.node(at);
            if node.after == 0 {
                return Some(Oldest {
                    at: self.kept(at),
                    identity: node.identity,
                    touched: node.touched,
                });
            }
            // It was touched by itself; what continues it was touched later.
            self.unlink(at);
        }
    }

    /// Forgets `identity`; whether it was there.
    pub(super) fn remove(&mut self, seat: usize, identity: BlockIdentity) -> bool {
        if self.is_empty(seat) {
            return false;
        }
        let place = place(seat, identity);
        let Some(at) = self.places.of(place).remove(&place) else {
            return false;
        };
        let node = *self.node(at);
        if node.before != NONE && self.node(node.before).generation == node.before_generation {
            self.outlive(node.before, at);
        }
        self.unlink(at);
        self.orders[seat].len -= 1;
        self.give_up(at);
        true
    }

    /// What is at `before` loses what is at `at`, and takes over its place in the order where it
    /// has none or an older one: it was touched with it.
    fn outlive(&mut self, before: u32, at: u32) {
        let node = *self.node(at);
        let kept = self.node_mut(before);
        kept.after -= 1;
        if kept.older != KEPT && kept.touched >= node.touched {
            return;
        }
        if node.older != KEPT {
            kept.touched = node.touched;
            self.unlink(before);
            self.link_before(before, at);
        } else if kept.after == 0 && kept.older == KEPT {
            // Removed from the middle: what continues it is not known here, and may be new.
            self.link_newest(before);
        }
    }

    /// Forgets the order of a seat, whose nodes will be [discarded](Self::discard) one by one.
    pub(super) fn abandon(&mut self, seat: usize) {
        if let Some(order) = self.orders.get_mut(seat) {
            *order = Order::default();
        }
    }

    /// Gives back what an abandoned seat had of `identity`.
    pub(super) fn discard(&mut self, seat: usize, identity: BlockIdentity) {
        let place = place(seat, identity);
        if let Some(at) = self.places.of(place).remove(&place) {
            self.give_up(at);
        }
    }

    fn give_up(&mut self, at: u32) {
        let free = self.free;
        let node = self.node_mut(at);
        node.generation = node.generation.wrapping_add(1);
        node.newer = free;
        self.free = at;
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn link_newest(&mut self, at: u32) {
        let seat = self.node(at).seat as usize;
        let newest = std::mem::replace(&mut self.orders[seat].newest, at);
        let node = self.node_mut(at);
        (node.older, node.newer) = (newest, NONE);
        match newest {
            NONE => self.orders[seat].oldest = at,
            newest => self.node_mut(newest).newer = at,
        }
    }

    /// Puts `at` into the order, just older than `next`.
    fn link_before(&mut self, at: u32, next: u32) {
        let seat = self.node(at).seat as usize;
        let older = std::mem::replace(&mut self.node_mut(next).older, at);
        let node = self.node_mut(at);
        (node.older, node.newer) = (older, next);
        match older {
            NONE => self.orders[seat].oldest = at,
            older => self.node_mut(older).newer = at,
        }
    }

    /// Takes it out of the order, if it is in it.
    fn unlink(&mut self, at: u32) {
        let node = self.node_mut(at);
        let (seat, newer) = (node.seat as usize, node.newer);
        let older = std::mem::replace(&mut node.older, KEPT);
        if older == KEPT {
            return;
        }
        match older {
            NONE => self.orders[seat].oldest = newer,
            older => self.node_mut(older).newer = newer,
        }
        match newer {
            NONE => self.orders[seat].newest = older,
            newer => self.node_mut(newer).older = older,
        }
    }
}

impl Default for Order {
    fn default() -> Self {
        Self {
            len: 0,
            oldest: NONE,
            newest: NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;
    use std::collections::BTreeMap;

    fn block(identity: u128) -> BlockIdentity {
        BlockIdentity::from_u128(identity)
    }

    /// By identity: when it, or what continues it, was touched, and what it continues.
    type Naive = BTreeMap<u128, (u64, Option<u128>)>;

    /// Touches it and all it continues.
    fn touch(naive: &mut Naive, identity: u128, now: u64) {
        let mut at = Some(identity);
        while let Some((touched, before)) = at.and_then(|at| naive.get_mut(&at)) {
            (*touched, at) = (now, *before);
        }
    }

    /// The longest untouched of those that nothing continues.
    fn oldest(naive: &Naive) -> Option<(u128, u64)> {
        let kept = |id: &u128| naive.values().any(|(_, before)| *before == Some(*id));
        let ends = naive.iter().filter(|(id, _)| !kept(id));
        let ends = ends.map(|(id, (touched, _))| (*id, *touched));
        ends.min_by_key(|(_, touched)| *touched)
    }

    #[test]
    fn does_what_touching_whole_chains_does() {
        let rng = Rng::seeded(8);
        let mut assumed = Assumed::new();
        let mut naive = [Naive::new(), Naive::new()];
        for now in 0..20_000 {
            let (seat, identity) = (rng.below(2), rng.below(60) as u128);
            let of = &mut naive[seat];
            let time = Time::from_secs(now);
            match rng.below(8) {
                0 if of.len() > 20 => {
                    let (first, _) = oldest(of).expect("somebody");
                    assert!(assumed.remove(seat, block(first)));
                    of.remove(&first);
                }
                // An end that somebody has refuted.
                1 if !of.values().any(|(_, before)| *before == Some(identity)) => {
                    let was = of.remove(&identity).is_some();
                    assert_eq!(assumed.remove(seat, block(identity)), was);
                }
                _ => {
                    let at = assumed.touch(seat, block(identity), time);
                    assert_eq!(at.is_some(), of.contains_key(&identity));
                    if at.is_none() {
                        // What comes before is touched as well, as by a longer prompt.
                        let before = of.keys().nth(rng.below(of.len() * 2 + 1)).copied();
                        let place = before.and_then(|id| assumed.touch(seat, block(id), time));
                        assumed.push(seat, block(identity), place, time);
                        of.insert(identity, (now, before));
                    }
                    touch(of, identity, now);
                }
            }
            let found = assumed.oldest(seat);
            let found = found.map(|oldest| (oldest.identity, oldest.touched));
            let expected = oldest(of).map(|(id, touched)| (block(id), Time::from_secs(touched)));
            assert_eq!(found, expected);
            assert_eq!(assumed.len(seat), of.len());
        }
        assert_eq!(assumed.nodes.len(), 1);
        assert!(assumed.nodes[0].len() <= 120);
    }

    #[test]
    fn gaps_leave_everything_within_reach() {
        let rng = Rng::seeded(9);
        let mut assumed = Assumed::new();
        for round in 0..200u128 {
            let mut before = None;
            for at in 0..10 {
                let pushed = assumed.push(0, block(round << 8 | at), before, Time::ZERO);
                before = Some(pushed);
            }
            // From anywhere, as one whose head was confirmed or whose middle was refuted.
            for _ in 0..5 {
                assumed.remove(0, block(round << 8 | rng.below(10) as u128));
            }
        }
        let mut left = assumed.len(0);
        assert!(left > 500);
        while let Some(oldest) = assumed.oldest(0) {
            assert!(assumed.remove(0, oldest.identity));
            left -= 1;
        }
        assert_eq!((left, assumed.len(0)), (0, 0));
        // The places are used again.
        let nodes = assumed.nodes.len();
        for at in 0..1_000 {
            assumed.push(0, block(at), None, Time::ZERO);
        }
        assert_eq!(assumed.nodes.len(), nodes);
    }
}
