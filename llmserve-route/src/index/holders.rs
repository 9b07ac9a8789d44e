//! Who has a block, and in which tiers.

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

/// Seats with their tiers, packed in 16 bits, in ascending order: most blocks have one holder or
/// two, and a system prompt has all.
#[derive(Clone, Debug)]
pub(super) enum Holders {
    Few(u8, [u16; FEW]),
    Many(Vec<u16>),
}

impl Default for Holders {
    fn default() -> Self {
        Holders::Few(0, [0; FEW])
    }
}

impl Holders {
    fn packed(&self) -> &[u16] {
        match self {
            Holders::Few(len, packed) => &packed[..usize::from(*len)],
            Holders::Many(packed) => packed,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packed().is_empty()
    }

    /// Every seat and its tiers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, Tiers)> + '_ {
        let unpack = |packed: &u16| (usize::from(*packed >> BITS), Tiers((*packed & 15) as u8));
        self.packed().iter().map(unpack)
    }

    /// Where `seat` is, or would be.
    fn place(&self, seat: usize) -> Result<usize, usize> {
        let packed = self.packed();
        match self {
            Holders::Few(..) => {
                let at = packed
                    .iter()
                    .position(|packed| usize::from(*packed >> BITS) >= seat);
                let at = at.unwrap_or(packed.len());
                match packed.get(at) {
                    Some(packed) if usize::from(*packed >> BITS) == seat => Ok(at),
                    _ => Err(at),
                }
            }
            Holders::Many(_) => {
                packed.binary_search_by_key(&seat, |packed| usize::from(*packed >> BITS))
            }
        }
    }

    /// The tiers `seat` has the block in.
    pub(super) fn get(&self, seat: usize) -> Tiers {
        self.place(seat)
            .map_or(Tiers::NONE, |at| Tiers((self.packed()[at] & 15) as u8))
    }

    /// Adds tiers of `seat`; gives those it had before.
    pub(super) fn add(&mut self, seat: usize, tiers: Tiers) -> Tiers {
        let bits = u16::from(tiers.0);
        match self.place(seat) {
            Ok(at) => {
                let packed = match self {
                    Holders::Few(_, packed) => &mut packed[at],
                    Holders::Many(packed) => &mut packed[at],
                };
                let before = Tiers((*packed & 15) as u8);
                *packed |= bits;
                before
            }
            Err(at) => {
                let new = (seat as u16) << BITS | bits;
                match self {
                    Holders::Few(len, packed) if usize::from(*len) < FEW => {
                        packed.copy_within(at..usize::from(*len), at + 1);
                        packed[at] = new;
                        *len += 1;
                    }
                    Holders::Few(_, packed) => {
                        let mut many = Vec::with_capacity(4 * FEW);
                        many.extend_from_slice(packed);
                        many.insert(at, new);
                        *self = Holders::Many(many);
                    }
                    Holders::Many(packed) => packed.insert(at, new),
                }
                Tiers::NONE
            }
        }
    }

    /// Takes tiers of `seat` away; gives those it had before and has now.
    pub(super) fn take(&mut self, seat: usize, tiers: Tiers) -> (Tiers, Tiers) {
        let Ok(at) = self.place(seat) else {
            return (Tiers::NONE, Tiers::NONE);
        };
        let packed = match self {
            Holders::Few(_, packed) => &mut packed[at],
            Holders::Many(packed) => &mut packed[at],
        };
        let before = Tiers((*packed & 15) as u8);
        let now = Tiers(before.0 & !tiers.0);
        *packed = *packed & !15 | u16::from(now.0);
        if now.is_none() {
            self.remove(at);
        }
        (before, now)
    }

    fn remove(&mut self, at: usize) {
        match self {
            Holders::Few(len, packed) => {
                packed.copy_within(at + 1..usize::from(*len), at);
                *len -= 1;
            }
            Holders::Many(packed) => {
                packed.remove(at);
                // Back in place well below what it takes to leave it, so as not to go to and fro.
                if packed.len() <= FEW / 2 {
                    let mut few = [0; FEW];
                    few[..packed.len()].copy_from_slice(packed);
                    *self = Holders::Few(packed.len() as u8, few);
                }
            }
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
            let all: Vec<_> = holders
                .iter()
                .map(|(seat, tiers)| (seat, tiers.0))
                .collect();
            assert!(all.into_iter().eq(naive));
        }
        assert_eq!(size_of::<Holders>(), 24);
    }
}
