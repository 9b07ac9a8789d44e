//! What a strategy knows of those it may pick.

use crate::fleet::{Fleet, Slot};
use crate::load::Load;
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// Those that may answer the request at hand: a view, which costs nothing to make, of a fleet and
/// of what its members are doing at this moment. Nothing changes while a strategy looks.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    fleet: &'a Fleet,
    loads: &'a [Load],
    set: &'a ReplicaSet,
}

/// One of those that may answer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Its slot.
    pub slot: Slot,
    /// What is known about it.
    pub info: &'a ReplicaInfo,
    /// Requests this router has dispatched to it and that have not ended.
    pub outstanding: usize,
    /// [`estimated_tokens`](crate::estimated_tokens) of those requests, added up. What they have
    /// generated meanwhile is not subtracted.
    pub outstanding_tokens: u64,
    /// Requests this router ever dispatched to it. Only grows.
    pub dispatched: u64,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(fleet: &'a Fleet, loads: &'a [Load], set: &'a ReplicaSet) -> Self {
        Self { fleet, loads, set }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there are none. A router does not ask then.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Their slots' indexes, as a set.
    pub fn set(&self) -> &'a ReplicaSet {
        self.set
    }

    /// Everybody's slots, candidates or not.
    pub fn fleet(&self) -> &'a Fleet {
        self.fleet
    }

    /// Their slots, in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + 'a {
        let fleet = self.fleet;
        self.set.iter().map(|index| fleet.slot(index))
    }

    /// Calls `each` with the index and load of every one, in order.
    #[inline(always)]
    pub(crate) fn each(&self, mut each: impl FnMut(usize, &Load)) {
        let loads = self.loads;
        self.set.for_each(|index| {
            if let Some(load) = loads.get(index) {
                each(index, load);
            }
        });
    }

    /// Requests outstanding at all of them.
    pub fn total_outstanding(&self) -> usize {
        let mut total = 0;
        self.each(|_, load| total += load.outstanding as usize);
        total
    }

    /// The one with `n` before it.
    pub fn nth(&self, n: usize) -> Option<Slot> {
        Some(self.fleet.slot(self.set.nth(n)?))
    }

    /// Whether the one in `slot` is a candidate.
    pub fn contains(&self, slot: Slot) -> bool {
        self.set.contains(slot.index()) && self.fleet.slot(slot.index()) == slot
    }

    /// The candidate in `slot`; none if it is not one.
    pub fn get(&self, slot: Slot) -> Option<Candidate<'a>> {
        if !self.contains(slot) {
            return None;
        }
        let load = &self.loads[slot.index()];
        Some(Candidate {
            slot,
            info: self.fleet.info(slot.index())?,
            outstanding: load.outstanding as usize,
            outstanding_tokens: load.tokens,
            dispatched: load.dispatched,
        })
    }

    /// Requests outstanding at the member in `slot`, candidate or not; 0 if it is gone.
    pub fn outstanding(&self, slot: Slot) -> usize {
        self.load(slot).map_or(0, |load| load.outstanding as usize)
    }

    /// Tokens of those requests.
    pub fn outstanding_tokens(&self, slot: Slot) -> u64 {
        self.load(slot).map_or(0, |load| load.tokens)
    }

    /// What is known about the member in `slot`, candidate or not.
    pub fn info(&self, slot: Slot) -> Option<&'a ReplicaInfo> {
        self.load(slot)?;
        self.fleet.info(slot.index())
    }

    /// Those of them that are in `set`.
    pub fn within<'b>(&self, set: &'b ReplicaSet) -> Candidates<'b>
    where
        'a: 'b,
    {
        Candidates {
            fleet: self.fleet,
            loads: self.loads,
            set,
        }
    }

    fn load(&self, slot: Slot) -> Option<&'a Load> {
        let load = self.loads.get(slot.index())?;
        (self.fleet.slot(slot.index()) == slot).then_some(load)
    }
}

impl std::fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let candidates = self.iter().filter_map(|slot| self.get(slot));
        f.debug_list().entries(candidates).finish()
    }
}
