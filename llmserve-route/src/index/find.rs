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
    found: Vec<Overlap>,
    /// Those that have something.
    some: Vec<usize>,
}

impl Finder {
    /// Tells `each` how much of `chain` everybody has that has its beginning.
    pub(super) fn find(
        &mut self,
        table: &Table,
        chain: &[BlockIdentity],
        every: usize,
        mut each: impl FnMut(Slot, Overlap),
    ) {
        if chain.is_empty() {
            return;
        }
        self.found.resize(table.seats(), Overlap::default());
        let (len, (device, host, disk, assumed)) = (chain.len(), table.any());
        let told = Tiers::DEVICE;
        if device {
            self.solve(
                table,
                told,
                len,
                |at| chain[at],
                |has, depth| has.device = depth,
            );
        }
        if assumed {
            // Told blocks are at marks too: what is told may go on where what is assumed ends.
            let blocks = |depth: usize| mark_at(depth - 1, len, every) + 1;
            self.solve(
                table,
                told.or(Tiers::ASSUMED),
                marks(len, every),
                |mark| chain[mark_at(mark, len, every)],
                |has, depth| has.device = has.device.max(blocks(depth)),
            );
        }
        let told = told.or(Tiers::HOST);
        if host {
            self.solve(
                table,
                told,
                len,
                |at| chain[at],
                |has, depth| has.host = depth,
            );
        }
        if disk {
            let told = told.or(Tiers::DISK);
            self.solve(
                table,
                told,
                len,
                |at| chain[at],
                |has, depth| has.disk = depth,
            );
        }
        for seat in self.some.drain(..) {
            let mut has = std::mem::take(&mut self.found[seat]);
            has.host = has.host.max(has.device);
            has.disk = has.disk.max(has.host);
            // A seat is in here once for each search that found it.
            if has.disk > 0
                && let Some(slot) = table.slot_of(seat)
            {
                each(slot, has);
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
        mut set: impl FnMut(&mut Overlap, usize),
    ) {
        let holding = |at: usize, among: &ReplicaSet| {
            let mut holding = ReplicaSet::new();
            for (seat, has) in table.holders(identity(at)).iter().flat_map(|h| h.iter()) {
                if has.meets(tiers) && among.contains(seat) {
                    holding.insert(seat);
                }
            }
            holding
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
