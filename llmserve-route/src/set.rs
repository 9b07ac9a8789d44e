//! Sets of replicas, as bits.

/// Words kept in place: sets over up to 256 slots never allocate.
const INLINE: usize = 4;

/// A set of a fleet's slots, by [`Slot::index`](crate::Slot::index). Up to slot 255 it lives in
/// place; beyond that it grows on the heap.
///
/// ```
/// use llmserve_route::ReplicaSet;
/// let mut set: ReplicaSet = [3, 70, 300].into_iter().collect();
/// set.remove(70);
/// assert_eq!(set.iter().collect::<Vec<_>>(), [3, 300]);
/// assert_eq!((set.len(), set.nth(1), set.nth(2)), (2, Some(300), None));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ReplicaSet {
    inline: [u64; INLINE],
    /// The words after those. Never ends with a word of zeros, so that equal sets are equal.
    more: Vec<u64>,
}

impl ReplicaSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a slot.
    pub fn insert(&mut self, index: usize) {
        let (word, bit) = (index / 64, 1 << (index % 64));
        if word < INLINE {
            self.inline[word] |= bit;
            return;
        }
        let word = word - INLINE;
        if word >= self.more.len() {
            self.more.resize(word + 1, 0);
        }
        self.more[word] |= bit;
    }

    /// Takes a slot out, if it is in.
    pub fn remove(&mut self, index: usize) {
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        if word < INLINE {
            self.inline[word] &= !bit;
        } else if let Some(word) = self.more.get_mut(word - INLINE) {
            *word &= !bit;
            self.trim();
        }
    }

    /// Whether a slot is in.
    pub fn contains(&self, index: usize) -> bool {
        self.word(index / 64) >> (index % 64) & 1 == 1
    }

    /// How many slots are in.
    pub fn len(&self) -> usize {
        let ones = |words: &[u64]| words.iter().map(|w| w.count_ones() as usize).sum::<usize>();
        ones(&self.inline) + ones(&self.more)
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.inline == [0; INLINE] && self.more.is_empty()
    }

    /// Keeps what is in `other` too.
    pub fn intersect(&mut self, other: &Self) {
        for (word, other) in self.inline.iter_mut().zip(&other.inline) {
            *word &= other;
        }
        self.more.truncate(other.more.len());
        for (word, other) in self.more.iter_mut().zip(&other.more) {
            *word &= other;
        }
        self.trim();
    }

    /// Takes out what is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (word, other) in self.inline.iter_mut().zip(&other.inline) {
            *word &= !other;
        }
        for (word, other) in self.more.iter_mut().zip(&other.more) {
            *word &= !other;
        }
        self.trim();
    }

    /// Adds what is in `other`.
    pub fn unite(&mut self, other: &Self) {
        for (word, other) in self.inline.iter_mut().zip(&other.inline) {
            *word |= other;
        }
        if self.more.len() < other.more.len() {
            self.more.resize(other.more.len(), 0);
        }
        for (word, other) in self.more.iter_mut().zip(&other.more) {
            *word |= other;
        }
    }

    /// The slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..INLINE + self.more.len()).flat_map(|at| {
            let mut word = self.word(at);
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros() as usize;
                (word != 0).then(|| {
                    word &= word - 1;
                    at * 64 + bit
                })
            })
        })
    }

    /// Calls `each` with every slot, ascending: [`iter`](Self::iter) for loops that count in
    /// nanoseconds.
    // Inlined, what a loop adds up stays in registers.
    #[inline(always)]
    pub(crate) fn for_each(&self, mut each: impl FnMut(usize)) {
        for (at, word) in self.inline.iter().chain(&self.more).enumerate() {
            let mut word = *word;
            if word == u64::MAX {
                // Everybody is the common case, and a plain loop is several times as fast.
                (at * 64..at * 64 + 64).for_each(&mut each);
                continue;
            }
            while word != 0 {
                each(at * 64 + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }

    /// The slot with `n` smaller ones in the set.
    pub fn nth(&self, mut n: usize) -> Option<usize> {
        for at in 0..INLINE + self.more.len() {
            let mut word = self.word(at);
            let ones = word.count_ones() as usize;
            if n < ones {
                for _ in 0..n {
                    word &= word - 1;
                }
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
            n -= ones;
        }
        None
    }

    fn word(&self, at: usize) -> u64 {
        match at.checked_sub(INLINE) {
            None => self.inline[at],
            Some(at) => self.more.get(at).copied().unwrap_or(0),
        }
    }

    fn trim(&mut self) {
        while self.more.last() == Some(&0) {
            self.more.pop();
        }
    }
}

impl FromIterator<usize> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = usize>>(slots: I) -> Self {
        let mut set = Self::new();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl std::fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;
    use std::collections::BTreeSet;

    #[test]
    fn does_what_a_tree_set_does() {
        let random = Rng::seeded(7);
        for round in 0..200 {
            let most = [10, 64, 256, 257, 700][round % 5];
            let draw = || {
                (0..random.below(40))
                    .map(|_| random.below(most))
                    .collect::<BTreeSet<_>>()
            };
            let (mut naive, other) = (draw(), draw());
            let mut set: ReplicaSet = naive.iter().copied().collect();
            let others: ReplicaSet = other.iter().copied().collect();
            match round % 4 {
                0 => {
                    naive.retain(|slot| other.contains(slot));
                    set.intersect(&others);
                }
                1 => {
                    naive.retain(|slot| !other.contains(slot));
                    set.subtract(&others);
                }
                2 => {
                    naive.extend(&other);
                    set.unite(&others);
                }
                _ => {
                    for slot in &other {
                        naive.remove(slot);
                        set.remove(*slot);
                    }
                }
            }
            assert_eq!(set, naive.iter().copied().collect());
            assert_eq!(set.len(), naive.len());
            assert_eq!(set.is_empty(), naive.is_empty());
            assert!(set.iter().eq(naive.iter().copied()));
            let mut each = Vec::new();
            set.for_each(|slot| each.push(slot));
            assert!(each.iter().eq(&naive));
            assert!((0..most + 9).all(|slot| set.contains(slot) == naive.contains(&slot)));
            let nth: Vec<_> = (0..=naive.len()).map_while(|n| set.nth(n)).collect();
            assert!(nth.iter().eq(&naive));
        }
    }
}
