//! The map from blocks to holders, and who sits where.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{BlockEvent, BlockIdentity, Time};

use super::IndexStats;
use super::assumed::Assumed;
use super::holders::{Holders, MOST_SEATS, Tiers};
use crate::fleet::Slot;
use crate::set::ReplicaSet;

/// Parts that the map is swept in, one a call.
const SHARDS: usize = 256;

/// Identities are hashes already; those of other engines may be small or in sequence.
#[derive(Default)]
pub(super) struct IdentityHasher(u64);

pub(super) type ByIdentity = BuildHasherDefault<IdentityHasher>;

fn fold(identity: u128) -> u64 {
    let folded = identity as u64 ^ ((identity >> 64) as u64).rotate_left(32);
    folded.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_u128(&mut self, identity: u128) {
        self.0 = fold(identity);
    }
}

/// Everything an index knows.
pub(super) struct Table {
    shards: Box<[HashMap<BlockIdentity, Holders, ByIdentity>]>,
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
}

/// Where holders are known by a number that fits in 12 bits. A slot will not do: it is reused at
/// once, and a seat only when nothing is left of the one before.
#[derive(Default)]
struct Seat {
    slot: Option<Slot>,
    name: Arc<str>,
    assumed: Assumed,
    /// Entries by tier: device, host, disk.
    told: [usize; 3],
}

impl Seat {
    fn is_blank(&self) -> bool {
        self.told == [0; 3] && self.assumed.is_empty()
    }
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
            shards: (0..SHARDS).map(|_| HashMap::default()).collect(),
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
        if was.is_blank() {
            self.free.push(seat);
        } else {
            was.assumed = Assumed::default();
            self.assuming.remove(seat);
            self.left.push(seat);
        }
    }

    /// Sweeps a shard of what those left that are gone.
    pub(super) fn sweep(&mut self) {
        if self.leaving.is_empty() {
            if self.left.is_empty() {
                return;
            }
            self.leaving = self.left.drain(..).collect();
            self.swept = 0;
        }
        let Self {
            shards,
            leaving,
            seats,
            told,
            ..
        } = self;
        let shard = &mut shards[self.swept];
        let before = shard.len();
        shard.retain(|_, holders| {
            for (seat, tiers) in holders.among(leaving) {
                holders.take(seat, tiers);
                count(told, &mut seats[seat], tiers, Tiers::NONE);
            }
            !holders.is_empty()
        });
        self.blocks -= before - shard.len();
        self.swept += 1;
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

    fn shard(identity: BlockIdentity) -> usize {
        // Bits that the map itself uses neither for its buckets nor for its tags.
        (fold(identity.as_u128()) >> 40) as usize % SHARDS
    }

    pub(super) fn holders(&self, identity: BlockIdentity) -> Option<&Holders> {
        self.shards[Self::shard(identity)].get(&identity)
    }

    /// Whether there was room.
    fn add(&mut self, seat: usize, identity: BlockIdentity, tiers: Tiers) -> bool {
        let shard = &mut self.shards[Self::shard(identity)];
        let before = if self.blocks < self.max_blocks {
            let blocks = shard.len();
            let before = shard.entry(identity).or_default().add(seat, tiers);
            self.blocks += shard.len() - blocks;
            before
        } else if let Some(holders) = shard.get_mut(&identity) {
            holders.add(seat, tiers)
        } else {
            self.dropped += 1;
            return false;
        };
        count(
            &mut self.told,
            &mut self.seats[seat],
            before,
            before.or(tiers),
        );
        true
    }

    fn take(&mut self, seat: usize, identity: BlockIdentity, tiers: Tiers) {
        use std::collections::hash_map::Entry;
        let Entry::Occupied(mut entry) = self.shards[Self::shard(identity)].entry(identity) else {
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
                if added && device && self.seats[seat].assumed.remove(*identity) {
                    self.take(seat, *identity, Tiers::ASSUMED);
                }
            }
            BlockEvent::Removed { identity } => {
                let assumed = device && self.seats[seat].assumed.remove(*identity);
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
        if only && (device || self.seats[seat].assumed.is_empty()) {
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
        for shard in &mut self.shards {
            let blocks = shard.len();
            shard.retain(|_, holders| {
                let (before, now) = holders.take(seat, tiers);
                count(&mut self.told, &mut self.seats[seat], before, now);
                !holders.is_empty()
            });
            self.blocks -= blocks - shard.len();
        }
        if device {
            self.seats[seat].assumed = Assumed::default();
        }
        seat
    }

    // ---- assumptions ------------------------------------------------------------------------

    /// Assumes every `every`th block of `chain` from block `from` on, and its last, to be with the
    /// one in `slot`.
    pub(super) fn assume(
        &mut self,
        slot: Slot,
        chain: &[BlockIdentity],
        from: usize,
        every: usize,
        now: Time,
    ) {
        let Some(seat) = self.seat_of(slot).filter(|_| self.max_assumed > 0) else {
            return;
        };
        let len = chain.len();
        // The first one last, so that it is the last to be forgotten.
        let marks = (0..marks(len, every))
            .rev()
            .map(|mark| mark_at(mark, len, every));
        for at in marks.take_while(|at| *at >= from) {
            let identity = chain[at];
            if self.seats[seat].assumed.renew(identity, now) {
                continue;
            }
            let has = self.holders(identity).map(|holders| holders.get(seat));
            if has.is_some_and(|tiers| tiers.meets(Tiers::DEVICE)) {
                continue;
            }
            if self.seats[seat].assumed.len() >= self.max_assumed
                && let Some((oldest, _)) = self.seats[seat].assumed.oldest()
            {
                self.seats[seat].assumed.remove(oldest);
                self.take(seat, oldest, Tiers::ASSUMED);
            }
            if self.add(seat, identity, Tiers::ASSUMED) {
                self.seats[seat].assumed.push(identity, now);
                self.assuming.insert(seat);
            }
        }
    }

    /// Forgets assumptions untouched for `after`, at most a 64th of it late.
    pub(super) fn expire(&mut self, now: Time, after: Duration) {
        if now < self.next_expiry {
            return;
        }
        let mut next = Time::MAX;
        for seat in 0..self.seats.len() {
            if self.seats[seat].assumed.is_empty() {
                self.assuming.remove(seat);
            }
            while let Some((identity, touched)) = self.seats[seat].assumed.oldest() {
                let expiry = touched.saturating_add(after);
                if expiry > now {
                    next = next.min(expiry);
                    break;
                }
                self.seats[seat].assumed.remove(identity);
                self.take(seat, identity, Tiers::ASSUMED);
                self.expired += 1;
            }
        }
        // Looking costs a little for each replica, so not at each of many expiries in a row.
        let soon = now.saturating_add(after / 64);
        self.next_expiry = next.min(now.saturating_add(after)).max(soon);
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
        let seats = || self.names.values().map(|seat| &self.seats[*seat]);
        IndexStats {
            blocks: self.blocks,
            told: seats().map(|seat| seat.told.iter().sum::<usize>()).sum(),
            assumed: seats().map(|seat| seat.assumed.len()).sum(),
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
