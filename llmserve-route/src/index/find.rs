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
    ahead: Vec<Ahead>,
    /// Seats, and how many marks they have.
    marked: Vec<(usize, ReplicaSet)>,
    /// By seat.
    found: Vec<Overlap>,
}

/// Seats that hold everything before position `from`, and not position `to`.
struct Ahead {
    from: usize,
    to: usize,
    seats: ReplicaSet,
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
        let [_, host, disk] = table.told();
        if !host && !disk {
            // What is on the device is all there is.
            self.device(table, chain, every, |seats, depth| {
                let overlap = Overlap {
                    device: depth,
                    host: depth,
                    disk: depth,
                };
                seats.for_each(|seat| {
                    if let Some(slot) = table.slot_of(seat) {
                        each(slot, overlap);
                    }
                });
            });
            return;
        }
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        found.resize(table.seats(), Overlap::default());
        let mut some = ReplicaSet::new();
        self.device(table, chain, every, |seats, depth| {
            some.unite(&seats);
            seats.for_each(|seat| found[seat].device = depth);
        });
        let whole = |seats: &ReplicaSet| Ahead {
            from: 0,
            to: chain.len(),
            seats: seats.clone(),
        };
        let (bound, at) = (table.bound(), |at: usize| chain[at]);
        if host {
            let tiers = Tiers::DEVICE.or(Tiers::HOST);
            self.solve(table, tiers, whole(bound), at, |seats, depth| {
                if depth > 0 {
                    some.unite(&seats);
                    seats.for_each(|seat| found[seat].host = depth);
                }
            });
        }
        if disk {
            let tiers = Tiers::DEVICE.or(Tiers::HOST).or(Tiers::DISK);
            self.solve(table, tiers, whole(bound), at, |seats, depth| {
                if depth > 0 {
                    some.unite(&seats);
                    seats.for_each(|seat| found[seat].disk = depth);
                }
            });
        }
        some.for_each(|seat| {
            let mut overlap = found[seat];
            overlap.host = overlap.host.max(overlap.device);
            overlap.disk = overlap.disk.max(overlap.host);
            if let Some(slot) = table.slot_of(seat) {
                each(slot, overlap);
            }
        });
        self.found = found;
    }

    /// Tells `each` which seats have how many blocks on the device or are assumed to, those that
    /// have none left out.
    fn device(
        &mut self,
        table: &Table,
        chain: &[BlockIdentity],
        every: usize,
        mut each: impl FnMut(ReplicaSet, usize),
    ) {
        let [told, ..] = table.told();
        let assumed = !table.assuming().is_empty();
        let (len, at) = (chain.len(), |at: usize| chain[at]);
        let all = Ahead {
            from: 0,
            to: len,
            seats: table.bound().clone(),
        };
        let mut each = |seats: ReplicaSet, depth| {
            if depth > 0 {
                each(seats, depth);
            }
        };
        if !assumed || every == 1 {
            let tiers = match assumed {
                true => Tiers::DEVICE.or(Tiers::ASSUMED),
                false => Tiers::DEVICE,
            };
            if told || assumed {
                self.solve(table, tiers, all, at, each);
            }
            return;
        }
        // Told blocks are at marks too: between those is only what is told.
        let (marks, tiers) = (marks(len, every), Tiers::DEVICE.or(Tiers::ASSUMED));
        let mut marked = std::mem::take(&mut self.marked);
        self.solve(
            table,
            tiers,
            Ahead { to: marks, ..all },
            |mark| chain[mark_at(mark, len, every)],
            |seats, depth| marked.push((depth, seats)),
        );
        for (mark, seats) in marked.drain(..) {
            let from = mark
                .checked_sub(1)
                .map_or(0, |mark| mark_at(mark, len, every) + 1);
            let to = match mark < marks {
                true => mark_at(mark, len, every),
                false => len,
            };
            if told && from < to {
                let between = Ahead { from, to, seats };
                self.solve(table, Tiers::DEVICE, between, at, &mut each);
            } else {
                each(seats, from);
            }
        }
        self.marked = marked;
    }

    /// Tells `each` how many of the first positions the seats of `all` hold in one of `tiers`.
    ///
    /// Who holds a position holds all before it, so the seats are divided at a position into those
    /// who hold it and those who do not, and the former are looked for behind it and the latter
    /// before it. Each position is looked up once at most, and few are where seats agree.
    fn solve(
        &mut self,
        table: &Table,
        tiers: Tiers,
        all: Ahead,
        identity: impl Fn(usize) -> BlockIdentity,
        mut each: impl FnMut(ReplicaSet, usize),
    ) {
        let mut looked = 0;
        self.ahead.push(all);
        while let Some(Ahead { from, to, seats }) = self.ahead.pop() {
            if from == to {
                each(seats, from);
                continue;
            }
            // Most have nothing, and of the others somebody often has all.
            let at = match looked {
                0 => from,
                1 => to - 1,
                _ => (from + to - 1) / 2,
            };
            looked += 1;
            let with = table.holders(identity(at)).map(|holders| {
                let with = holders.holding(tiers, &seats);
                (with.is_empty(), with)
            });
            let Some((false, with)) = with else {
                self.ahead.push(Ahead {
                    from,
                    to: at,
                    seats,
                });
                continue;
            };
            let mut without = seats;
            without.subtract(&with);
            if !without.is_empty() {
                self.ahead.push(Ahead {
                    from,
                    to: at,
                    seats: without,
                });
            }
            self.ahead.push(Ahead {
                from: at + 1,
                to,
                seats: with,
            });
        }
    }
}
