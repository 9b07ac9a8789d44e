//! The map from blocks to holders, and who sits where.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{BlockEvent, BlockIdentity, Time};

use super::IndexStats;
use super::assumed::{Assumed, Kept};
use super::holders::{Holders, MOST_SEATS, Tiers};
use super::shards::{SHARDS, Shards};
use crate::fleet::Slot;
use crate::set::ReplicaSet;

/// Parts that are swept by one call, and entries after which it is enough.
const SWEPT_AT_ONCE: (usize, usize) = (64, 64);

/// Seats looked at, and assumptions forgotten, by one call that forgets what has expired.
const EXPIRED_AT_ONCE: (usize, usize) = (32, 64);

/// Blocks that a decision assumes by itself, and chains that are left for later at most.
const AT_ONCE: usize = 2;
const MOST_CONTINUED: usize = 64;

/// Blocks of a chain that is being assumed to be somewhere.
struct Continued {
    seat: usize,
    /// Who sat there.
    slot: Option<Slot>,
    blocks: Vec<BlockIdentity>,
    next: usize,
    /// The block before the next one.
    before: Option<Kept>,
    now: Time,
}

/// Everything an index knows.
pub(super) struct Table {
    shards: Shards<Holders>,
    assumed: Assumed,
    /// Chains that are not assumed altogether yet.
    continued: VecDeque<Continued>,
    seats: Vec<Seat>,
    names: HashMap<Arc<str>, usize>,
    /// By slot index.
    slots: Vec<Option<(Slot, usize)>>,
    /// Seats of members of the fleet.
    bound: ReplicaSet,
    free: Vec<usize>,
    /// Seats nobody sits in any more that still have entries: to be swept next.
    left: Vec<usize>,
    /// Those that are being swept, up to `swept` shards.
    leaving: ReplicaSet,
    swept: usize,
    pub(super) max_blocks: usize,
    pub(super) max_assumed: usize,
    blocks: usize,
    /// Entries of all seats by tier: device, host, disk.
    told: [usize; 3],
    /// Seats that may be assumed to have something.
    assuming: ReplicaSet,
    dropped: u64,
    expired: u64,
    next_expiry: Time,
    /// The seat at which a look for what has expired goes on; 0 if none is under way.
    expiring: usize,
    /// When the first of those that were looked at expires.
    soonest: Time,
}

/// Where holders are known by a number that fits in 12 bits. A slot will not do: it is reused at
/// once, and a seat only when nothing is left of the one before.
#[derive(Default)]
struct Seat {
    slot: Option<Slot>,
    name: Arc<str>,
    /// Entries by tier: device, host, disk.
    told: [usize; 3],
}

/// Counts a change of what a seat holds of a block.
fn count(told: &mut [usize; 3], seat: &mut Seat, before: Tiers, now: Tiers) {
    let tiers = [Tiers::DEVICE, Tiers::HOST, Tiers::DISK];
    for ((all, own), tier) in told.iter_mut().zip(&mut seat.told).zip(tiers) {
        match (before.meets(tier), now.meets(tier)) {
            (false, true) => (*all, *own) = (*all + 1, *own + 1),
            (true, false) => (*all, *own) = (*all - 1, *own - 1),
            _ => {}
        }
    }
}

impl Table {
    pub(super) fn new(max_blocks: usize, max_assumed: usize) -> Self {
        Self {
            shards: Shards::new(),
            assumed: Assumed::new(),
            continued: VecDeque::new(),
            seats: Vec::new(),
            names: HashMap::new(),
            slots: Vec::new(),
            bound: ReplicaSet::new(),
            free: Vec::new(),
            left: Vec::new(),
            leaving: ReplicaSet::new(),
            swept: 0,
            max_blocks,
            max_assumed,
            blocks: 0,
            told: [0; 3],
            assuming: ReplicaSet::new(),
            dropped: 0,
            expired: 0,
            next_expiry: Time::ZERO,
            expiring: 0,
            soonest: Time::MAX,
        }
    }

    // ---- seats ------------------------------------------------------------------------------

    /// A seat for a replica of this name, its present one if it has one. None: all are taken.
    pub(super) fn seat(&mut self, name: &Arc<str>) -> Option<usize> {
        if let Some(seat) = self.names.get(name) {
            return Some(*seat);
        }
        if self.free.is_empty() && self.seats.len() == MOST_SEATS {
            while !(self.left.is_empty() && self.leaving.is_empty()) {
                self.sweep();
            }
        }
        let seat = match self.free.pop() {
            Some(seat) => seat,
            None if self.seats.len() < MOST_SEATS => {
                self.seats.push(Seat::default());
                self.seats.len() - 1
            }
            None => return None,
        };
        self.seats[seat].name = name.clone();
        self.names.insert(name.clone(), seat);
        Some(seat)
    }

    /// The seat of the replica of this name.
    pub(super) fn seated(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Gives the replica of this name a slot.
    pub(super) fn join(&mut self, slot: Slot, name: &str) {
        self.leave(slot);
        let Some(seat) = self.seat(&name.into()) else {
            return;
        };
        if slot.index() >= self.slots.len() {
            self.slots.resize(slot.index() + 1, None);
        }
        self.slots[slot.index()] = Some((slot, seat));
        self.seats[seat].slot = Some(slot);
        self.bound.insert(seat);
    }

    /// Empties the slot, whoever is in it.
    pub(super) fn leave(&mut self, slot: Slot) {
        let Some((_, seat)) = self.slots.get_mut(slot.index()).and_then(Option::take) else {
            return;
        };
        self.names.remove(&self.seats[seat].name);
        self.vacate(seat);
    }

    /// Nobody sits in `seat` any more.
    fn vacate(&mut self, seat: usize) {
        self.bound.remove(seat);
        let was = &mut self.seats[seat];
        was.slot = None;
        if was.told == [0; 3] && self.assumed.is_empty(seat) {
            self.free.push(seat);
        } else {
            self.assumed.abandon(seat);
            self.assuming.remove(seat);
            self.left.push(seat);
        }
    }

    /// Sweeps a few parts of what those left that are gone.
    pub(super) fn sweep(&mut self) {
        if self.leaving.is_empty() {
            if self.left.is_empty() {
                return;
            }
            self.leaving = self.left.drain(..).collect();
            self.swept = 0;
        }
        let (parts, entries) = SWEPT_AT_ONCE;
        let last = (self.swept + parts).min(SHARDS);
        let mut seen = 0;
        while self.swept < last && seen < entries {
            let Self {
                shards,
                assumed,
                leaving,
                seats,
                told,
                ..
            } = self;
            let shard = shards.part(self.swept);
            let before = shard.len();
            shard.retain(|identity, holders| {
                for (seat, tiers) in holders.among(leaving) {
                    holders.take(seat, tiers);
                    count(told, &mut seats[seat], tiers, Tiers::NONE);
                    if tiers.meets(Tiers::ASSUMED) {
                        assumed.discard(seat, *identity);
                    }
                }
                !holders.is_empty()
            });
            self.blocks -= before - shard.len();
            self.swept += 1;
            seen += before;
        }
        if self.swept == SHARDS {
            for seat in std::mem::take(&mut self.leaving).iter() {
                self.seats[seat] = Seat::default();
                self.free.push(seat);
            }
        }
    }

    pub(super) fn bound(&self) -> &ReplicaSet {
        &self.bound
    }

    pub(super) fn seats(&self) -> usize {
        self.seats.len()
    }

    pub(super) fn slot_of(&self, seat: usize) -> Option<Slot> {
        self.seats.get(seat)?.slot
    }

    fn seat_of(&self, slot: Slot) -> Option<usize> {
        let (has, seat) = (*self.slots.get(slot.index())?)?;
        (has == slot).then_some(seat)
    }

    // ---- entries ----------------------------------------------------------------------------

    pub(super) fn holders(&self, identity: BlockIdentity) -> Option<&Holders> {
        self.shards.get(identity)
    }

    /// What `seat` had of it before. None: there was no room.
    fn add(&mut self, seat: usize, identity: BlockIdentity, tiers: Tiers) -> Option<Tiers> {
        let shard = self.shards.of(identity);
        let before = if self.blocks < self.max_blocks {
            let blocks = shard.len();
            let before = shard.entry(identity).or_default().add(seat, tiers);
            self.blocks += shard.len() - blocks;
            before
        } else if let Some(holders) = shard.get_mut(&identity) {
            holders.add(seat, tiers)
        } else {
            self.dropped += 1;
            return None;
        };
        count(
            &mut self.told,
            &mut self.seats[seat],
            before,
            before.or(tiers),
        );
        Some(before)
    }

    fn take(&mut self, seat: usize, identity: BlockIdentity, tiers: Tiers) {
        use std::collections::hash_map::Entry;
        let Entry::Occupied(mut entry) = self.shards.of(identity).entry(identity) else {
            return;
        };
        let (before, now) = entry.get_mut().take(seat, tiers);
        count(&mut self.told, &mut self.seats[seat], before, now);
        if entry.get().is_empty() {
            entry.remove();
            self.blocks -= 1;
        }
    }

    /// What an engine tells of one of its tiers.
    pub(super) fn apply(&mut self, seat: usize, tiers: Tiers, event: &BlockEvent) -> usize {
        let device = tiers.meets(Tiers::DEVICE);
        match event {
            BlockEvent::Stored { identity, .. } => {
                let added = self.add(seat, *identity, tiers);
                if added.is_some() && device && self.assumed.remove(seat, *identity) {
                    self.take(seat, *identity, Tiers::ASSUMED);
                }
            }
            BlockEvent::Removed { identity } => {
                let assumed = device && self.assumed.remove(seat, *identity);
                let tiers = if assumed {
                    tiers.or(Tiers::ASSUMED)
                } else {
                    tiers
                };
                self.take(seat, *identity, tiers);
            }
            BlockEvent::Cleared => return self.clear(seat, tiers),
            _ => {}
        }
        seat
    }

    /// Drops all that a replica has in a tier; gives the seat it then has.
    fn clear(&mut self, seat: usize, tiers: Tiers) -> usize {
        let told = self.seats[seat].told;
        let all = [Tiers::DEVICE, Tiers::HOST, Tiers::DISK];
        let only = all
            .into_iter()
            .zip(told)
            .all(|(tier, count)| tiers.meets(tier) || count == 0);
        let device = tiers.meets(Tiers::DEVICE);
        if only && (device || self.assumed.is_empty(seat)) {
            // Everything goes: it moves to an empty seat, and the old one is swept by and by.
            let (name, slot) = (self.seats[seat].name.clone(), self.seats[seat].slot);
            self.names.remove(&name);
            self.vacate(seat);
            let Some(new) = self.seat(&name) else {
                return seat;
            };
            if let Some(slot) = slot {
                self.slots[slot.index()] = Some((slot, new));
                self.seats[new].slot = Some(slot);
                self.bound.insert(new);
            }
            return new;
        }
        // Other tiers stay: a rare case, and a walk.
        let tiers = if device {
            tiers.or(Tiers::ASSUMED)
        } else {
            tiers
        };
        if device {
            self.assumed.abandon(seat);
        }
        for shard in self.shards.parts() {
            let blocks = shard.len();
            shard.retain(|identity, holders| {
                let (before, now) = holders.take(seat, tiers);
                count(&mut self.told, &mut self.seats[seat], before, now);
                if before.meets(Tiers::ASSUMED) && !now.meets(Tiers::ASSUMED) {
                    self.assumed.discard(seat, *identity);
                }
                !holders.is_empty()
            });
            self.blocks -= blocks - shard.len();
        }
        seat
    }

    // ---- assumptions ------------------------------------------------------------------------

    /// Assumes every `every`th block of `chain`, and its last, to be with the one in `slot`.
    pub(super) fn assume(&mut self, slot: Slot, chain: &[BlockIdentity], every: usize, now: Time) {
        let Some(seat) = self.seat_of(slot) else {
            return;
        };
        let (len, marks) = (chain.len(), marks(chain.len(), every));
        let has = |mark: &usize| {
            let holders = self.shards.get(chain[mark_at(*mark, len, every)]);
            let has = holders.map_or(Tiers::NONE, |holders| holders.get(seat));
            has.meets(Tiers::DEVICE.or(Tiers::ASSUMED))
        };
        // Who has one has all before it.
        let had = (0..marks).rev().find(has);
        let mut continued = self.continued(seat, chain, every, had.map_or(0, |mark| mark + 1), now);
        self.go_on(&mut continued, usize::MAX);
    }

    /// The same where it has the first `depth` blocks, without being quick about it: what takes
    /// longer is [continued](Self::continue_assuming), from the beginning of the chain on, so that
    /// who has one has all before it at any time.
    pub(super) fn assume_soon(
        &mut self,
        slot: Slot,
        chain: &[BlockIdentity],
        every: usize,
        depth: usize,
        now: Time,
    ) {
        let Some(seat) = self.seat_of(slot) else {
            return;
        };
        let had = match depth == chain.len() {
            true => marks(depth, every),
            false => depth / every,
        };
        let mut continued = self.continued(seat, chain, every, had, now);
        if !self.go_on(&mut continued, AT_ONCE) {
            self.continued.push_back(continued);
        }
        if self.continued.len() > MOST_CONTINUED {
            self.continue_assuming(usize::MAX);
        }
    }

    /// Goes on with the first chain that is not assumed altogether, for as many blocks.
    pub(super) fn continue_assuming(&mut self, blocks: usize) {
        if let Some(mut first) = self.continued.pop_front()
            && !self.go_on(&mut first, blocks)
        {
            self.continued.push_front(first);
        }
    }

    /// What is to be assumed from mark `had` on, the one before being touched.
    fn continued(
        &mut self,
        seat: usize,
        chain: &[BlockIdentity],
        every: usize,
        had: usize,
        now: Time,
    ) -> Continued {
        let block = |mark| chain[mark_at(mark, chain.len(), every)];
        let before = had.checked_sub(1);
        Continued {
            seat,
            slot: self.seats[seat].slot,
            before: before.and_then(|mark| self.assumed.touch(seat, block(mark), now)),
            blocks: (had..marks(chain.len(), every)).map(block).collect(),
            next: 0,
            now,
        }
    }

    /// Assumes the next of them; whether there is nothing more to do.
    fn go_on(&mut self, continued: &mut Continued, blocks: usize) -> bool {
        let (seat, rest) = (continued.seat, &continued.blocks[continued.next..]);
        if self.max_assumed == 0 || continued.slot.is_none() || self.slot_of(seat) != continued.slot
        {
            return true;
        }
        for identity in rest.iter().take(blocks) {
            while self.assumed.len(seat) >= self.max_assumed {
                // A chain too long for all of it to be kept is kept from its beginning.
                let oldest = self.assumed.oldest(seat);
                let Some(oldest) = oldest.filter(|oldest| Some(oldest.at) != continued.before)
                else {
                    return true;
                };
                self.forget(seat, oldest.identity);
            }
            let Some(had) = self.add(seat, *identity, Tiers::ASSUMED) else {
                continue;
            };
            if had.meets(Tiers::ASSUMED) {
                continued.before = self.assumed.touch(seat, *identity, continued.now);
            } else if had.meets(Tiers::DEVICE) {
                // Told in the meantime.
                self.take(seat, *identity, Tiers::ASSUMED);
            } else {
                let before = continued.before;
                let at = self.assumed.push(seat, *identity, before, continued.now);
                continued.before = Some(at);
                self.assuming.insert(seat);
            }
        }
        continued.next += rest.len().min(blocks);
        continued.next == continued.blocks.len()
    }

    fn forget(&mut self, seat: usize, identity: BlockIdentity) {
        self.assumed.remove(seat, identity);
        self.take(seat, identity, Tiers::ASSUMED);
    }

    /// Forgets assumptions untouched for `after`, at most a 64th of it late, and a few at a time.
    pub(super) fn expire(&mut self, now: Time, after: Duration) {
        if now < self.next_expiry && self.expiring == 0 {
            return;
        }
        let (seats, mut assumptions) = EXPIRED_AT_ONCE;
        let last = (self.expiring + seats).min(self.seats.len());
        while self.expiring < last {
            let seat = self.expiring;
            if self.assumed.is_empty(seat) {
                self.assuming.remove(seat);
            }
            while let Some(oldest) = self.assumed.oldest(seat) {
                let expiry = oldest.touched.saturating_add(after);
                if expiry > now {
                    self.soonest = self.soonest.min(expiry);
                    break;
                }
                if assumptions == 0 {
                    return;
                }
                assumptions -= 1;
                self.forget(seat, oldest.identity);
                self.expired += 1;
            }
            self.expiring += 1;
        }
        if self.expiring >= self.seats.len() {
            // Looking costs a little for each replica, so not at each of many expiries in a row.
            let soon = now.saturating_add(after / 64);
            let next = std::mem::replace(&mut self.soonest, Time::MAX);
            self.next_expiry = next.min(now.saturating_add(after)).max(soon);
            self.expiring = 0;
        }
    }

    /// Whether anybody is said to have something on the device, in host memory, on disk.
    pub(super) fn told(&self) -> [bool; 3] {
        self.told.map(|entries| entries > 0)
    }

    /// Seats that may be assumed to have something.
    pub(super) fn assuming(&self) -> &ReplicaSet {
        &self.assuming
    }

    /// What is left of those that are gone, and not swept yet, counts among the blocks only.
    pub(super) fn stats(&self) -> IndexStats {
        let seats = || self.names.values().copied();
        IndexStats {
            blocks: self.blocks,
            told: seats()
                .map(|seat| self.seats[seat].told.iter().sum::<usize>())
                .sum(),
            assumed: seats().map(|seat| self.assumed.len(seat)).sum(),
            dropped: self.dropped,
            expired: self.expired,
        }
    }
}

/// How many blocks of a chain of `len` are marked.
pub(super) fn marks(len: usize, every: usize) -> usize {
    len.div_ceil(every)
}

/// Where mark number `mark` is: the last block of each run of `every`.
pub(super) fn mark_at(mark: usize, len: usize, every: usize) -> usize {
    ((mark + 1) * every).min(len) - 1
}
