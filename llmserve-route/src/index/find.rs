//! How far each replica has a chain.

use llmserve_core::BlockIdentity;

use super::Overlap;
use super::holders::Tiers;
use super::table::{Table, mark_at, marks};
use crate::fleet::Slot;
use crate::set::ReplicaSet;

/// Room for a search, kept from one to the next.
#[derive(Default)]
pub(super) struct Finder {
    /// Ranges of positions with the seats that have the first one and not the last one.
    ahead: Vec<(usize, usize, ReplicaSet)>,
    /// By seat.
    found: Vec<Found>,
    /// Those that have something.
    some: Vec<usize>,
}

/// What one seat has.
#[derive(Clone, Copy, Default)]
struct Found {
    overlap: Overlap,
    /// Blocks of it on the device that are told and not assumed.
    told: usize,
}

impl Finder {
    /// Tells `each` how much of `chain` everybody has that has its beginning, and how much of that
    /// is on the device and not just assumed to be.
    pub(super) fn find(
        &mut self,
        table: &Table,
        chain: &[BlockIdentity],
        every: usize,
        mut each: impl FnMut(Slot, Overlap, usize),
    ) {
        if chain.is_empty() {
            return;
        }
        self.found.resize(table.seats(), Found::default());
        let (len, [device, host, disk]) = (chain.len(), table.told());
        let block = |at: usize| chain[at];
        let told = Tiers::DEVICE;
        if device {
            let set = |has: &mut Found, depth| (has.told, has.overlap.device) = (depth, depth);
            self.solve(table, told, len, block, set);
        }
        if !table.assuming().is_empty() {
            // Told blocks are at marks too: what is told may go on where what is assumed ends.
            self.solve(
                table,
                told.or(Tiers::ASSUMED),
                marks(len, every),
                |mark| block(mark_at(mark, len, every)),
                |has, depth| {
                    let blocks = mark_at(depth - 1, len, every) + 1;
                    has.overlap.device = has.overlap.device.max(blocks);
                },
            );
        }
        let told = told.or(Tiers::HOST);
        if host {
            let set = |has: &mut Found, depth| has.overlap.host = depth;
            self.solve(table, told, len, block, set);
        }
        if disk {
            let set = |has: &mut Found, depth| has.overlap.disk = depth;
            self.solve(table, told.or(Tiers::DISK), len, block, set);
        }
        for seat in self.some.drain(..) {
            let Found { mut overlap, told } = std::mem::take(&mut self.found[seat]);
            overlap.host = overlap.host.max(overlap.device);
            overlap.disk = overlap.disk.max(overlap.host);
            // A seat is in here once for each search that found it.
            if overlap.disk > 0
                && let Some(slot) = table.slot_of(seat)
            {
                each(slot, overlap, told);
            }
        }
    }

    /// Finds for every seat how many of the first `len` positions it holds in one of `tiers`.
    ///
    /// Who holds a position holds all before it, so the seats are divided at a position into those
    /// who hold it and those who do not, and the former are looked for behind it and the latter
    /// before it. Each position is looked up once at most, and few are where seats agree.
    fn solve(
        &mut self,
        table: &Table,
        tiers: Tiers,
        len: usize,
        identity: impl Fn(usize) -> BlockIdentity,
        mut set: impl FnMut(&mut Found, usize),
    ) {
        let holding = |at: usize, among: &ReplicaSet| {
            let holders = table.holders(identity(at));
            holders.map_or_else(ReplicaSet::new, |holders| holders.holding(tiers, among))
        };
        let first = holding(0, table.bound());
        if first.is_empty() {
            return;
        }
        self.ahead.push((0, len, first));
        // A prompt that somebody has whole is common: the last position first.
        let mut at = len - 1;
        while let Some((from, to, seats)) = self.ahead.pop() {
            if to - from == 1 {
                for seat in seats.iter() {
                    set(&mut self.found[seat], to);
                    self.some.push(seat);
                }
                continue;
            }
            let middle = if at > from {
                at
            } else {
                from + (to - from) / 2
            };
            at = 0;
            let with = holding(middle, &seats);
            let mut without = seats;
            without.subtract(&with);
            if !without.is_empty() {
                self.ahead.push((from, middle, without));
            }
            if !with.is_empty() {
                self.ahead.push((middle, to, with));
            }
        }
    }
}
