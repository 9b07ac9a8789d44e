//! Who has a block, and in which tiers.

use crate::set::ReplicaSet;

/// A set of tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiers(u8);

impl Tiers {
    pub(super) const NONE: Self = Self(0);
    pub(super) const DEVICE: Self = Self(1);
    pub(super) const HOST: Self = Self(2);
    pub(super) const DISK: Self = Self(4);
    /// Assumed to be in device memory.
    pub(super) const ASSUMED: Self = Self(8);

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Bits of a packed holder that are its tiers.
const BITS: u32 = 4;

/// Seats that can be told apart.
pub(super) const MOST_SEATS: usize = 1 << (16 - BITS);

/// Holders that fit in place.
const FEW: usize = 7;

/// Holders up to which many become few again: well below what it takes to be many, so as not to go
/// to and fro.
const FEW_AGAIN: usize = FEW / 2;

/// Seats and the tiers each has the block in. Most blocks have one holder or two, who are packed
/// in place; a system prompt has all, who are sets of bits.
#[derive(Clone, Debug)]
pub(super) enum Holders {
    /// How many, and each as a seat and its tiers, in 16 bits, in no order.
    Few(u8, [u16; FEW]),
    /// A set of seats for each tier.
    Many(Box<[ReplicaSet; 4]>),
}

impl Default for Holders {
    fn default() -> Self {
        Holders::Few(0, [0; FEW])
    }
}

fn packed(seat: usize, tiers: Tiers) -> u16 {
    (seat as u16) << BITS | u16::from(tiers.0)
}

fn unpacked(packed: u16) -> (usize, Tiers) {
    (usize::from(packed >> BITS), Tiers((packed & 15) as u8))
}

impl Holders {
    pub(super) fn is_empty(&self) -> bool {
        // Many are never none.
        matches!(self, Holders::Few(0, _))
    }

    /// Those of `among` that hold it in one of `tiers`.
    pub(super) fn holding(&self, tiers: Tiers, among: &ReplicaSet) -> ReplicaSet {
        let mut holding = ReplicaSet::new();
        match self {
            Holders::Few(len, few) => {
                for packed in &few[..usize::from(*len)] {
                    let (seat, has) = unpacked(*packed);
                    if has.meets(tiers) && among.contains(seat) {
                        holding.insert(seat);
                    }
                }
            }
            Holders::Many(sets) => {
                for (bit, set) in sets.iter().enumerate() {
                    if tiers.meets(Tiers(1 << bit)) {
                        holding.unite(set);
                    }
                }
                holding.intersect(among);
            }
        }
        holding
    }

    /// Those of `among` that have it at all, and how.
    pub(super) fn among(&self, among: &ReplicaSet) -> Vec<(usize, Tiers)> {
        let all = self.holding(Tiers(15), among);
        all.iter().map(|seat| (seat, self.get(seat))).collect()
    }

    /// The tiers `seat` has the block in.
    pub(super) fn get(&self, seat: usize) -> Tiers {
        match self {
            Holders::Few(len, few) => {
                let mut few = few[..usize::from(*len)]
                    .iter()
                    .map(|packed| unpacked(*packed));
                few.find(|(has, _)| *has == seat)
                    .map_or(Tiers::NONE, |(_, tiers)| tiers)
            }
            Holders::Many(sets) => {
                let bits = sets.iter().enumerate();
                Tiers(
                    bits.map(|(bit, set)| u8::from(set.contains(seat)) << bit)
                        .sum(),
                )
            }
        }
    }

    /// Adds tiers of `seat`; gives those it had before.
    pub(super) fn add(&mut self, seat: usize, tiers: Tiers) -> Tiers {
        let before = self.get(seat);
        self.set(seat, before, before.or(tiers));
        before
    }

    /// Takes tiers of `seat` away; gives those it had before and has now.
    pub(super) fn take(&mut self, seat: usize, tiers: Tiers) -> (Tiers, Tiers) {
        let before = self.get(seat);
        let now = Tiers(before.0 & !tiers.0);
        self.set(seat, before, now);
        (before, now)
    }

    fn set(&mut self, seat: usize, before: Tiers, now: Tiers) {
        if before == now {
            return;
        }
        match self {
            Holders::Few(len, few) => {
                let count = usize::from(*len);
                let at = few[..count]
                    .iter()
                    .position(|packed| unpacked(*packed).0 == seat);
                match at {
                    Some(at) if now.is_none() => {
                        few[at] = few[count - 1];
                        *len -= 1;
                    }
                    Some(at) => few[at] = packed(seat, now),
                    None if count < FEW => {
                        few[count] = packed(seat, now);
                        *len += 1;
                    }
                    None => {
                        let mut many = Box::<[ReplicaSet; 4]>::default();
                        for packed in few {
                            let (seat, tiers) = unpacked(*packed);
                            set_bits(&mut many, seat, tiers);
                        }
                        set_bits(&mut many, seat, now);
                        *self = Holders::Many(many);
                    }
                }
            }
            Holders::Many(sets) => {
                set_bits(sets, seat, now);
                if now.is_none() {
                    let mut all = sets[0].clone();
                    sets[1..].iter().for_each(|set| all.unite(set));
                    if all.len() <= FEW_AGAIN {
                        let mut few = [0; FEW];
                        for (to, seat) in few.iter_mut().zip(all.iter()) {
                            *to = packed(seat, self.get(seat));
                        }
                        *self = Holders::Few(all.len() as u8, few);
                    }
                }
            }
        }
    }
}

fn set_bits(sets: &mut [ReplicaSet; 4], seat: usize, tiers: Tiers) {
    for (bit, set) in sets.iter_mut().enumerate() {
        if tiers.meets(Tiers(1 << bit)) {
            set.insert(seat);
        } else {
            set.remove(seat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn does_what_a_map_does() {
        let rng = Rng::seeded(5);
        for most in [3, 8, 40, MOST_SEATS] {
            let (mut holders, mut naive) = (Holders::default(), BTreeMap::<usize, u8>::new());
            for _ in 0..4_000 {
                let seat = rng.below(most);
                let tiers = 1 << rng.below(4);
                let had = naive.get(&seat).copied().unwrap_or(0);
                assert_eq!(holders.get(seat), Tiers(had));
                // Grows and shrinks in turns.
                if rng.below(3) > 0 {
                    assert_eq!(holders.add(seat, Tiers(tiers)), Tiers(had));
                    naive.insert(seat, had | tiers);
                } else {
                    let now = had & !tiers;
                    assert_eq!(holders.take(seat, Tiers(tiers)), (Tiers(had), Tiers(now)));
                    naive.insert(seat, now);
                    naive.retain(|_, tiers| *tiers != 0);
                }
                if naive.len() > 30 {
                    for seat in std::mem::take(&mut naive).into_keys() {
                        holders.take(seat, Tiers(15));
                    }
                }
                assert_eq!(holders.is_empty(), naive.is_empty());
            }
            let everybody: ReplicaSet = (0..most).collect();
            let all = holders.among(&everybody).into_iter();
            assert!(all.map(|(seat, tiers)| (seat, tiers.0)).eq(naive.clone()));
            let even: ReplicaSet = (0..most).step_by(2).collect();
            let some = holders.holding(Tiers::HOST.or(Tiers::DISK), &even);
            let host = naive
                .iter()
                .filter(|(seat, tiers)| *seat % 2 == 0 && *tiers & 6 != 0);
            assert!(some.iter().eq(host.map(|(seat, _)| *seat)));
        }
        assert_eq!(size_of::<Holders>(), 16);
    }
}
