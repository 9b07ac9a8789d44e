//! The running sequences, in admission order, as a ring.
//!
//! Doubly linked through vectors indexed by slot: the order survives removals, a removal touches
//! two neighbours, and a walk may begin anywhere.

const NONE: usize = usize::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: usize,
    next: usize,
}

/// Slots in the order they were pushed. The caller keeps a slot from being pushed twice.
#[derive(Debug)]
pub(super) struct Ring {
    links: Vec<Link>,
    head: usize,
    len: usize,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            links: Vec::new(),
            head: NONE,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot pushed first.
    pub(super) fn first(&self) -> Option<usize> {
        (self.len > 0).then_some(self.head)
    }

    /// The slot after `slot`, the first after the last; itself if it is alone.
    pub(super) fn next(&self, slot: usize) -> Option<usize> {
        let next = self.links.get(slot)?.next;
        (next != NONE).then_some(next)
    }

    /// All slots, first to last.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let mut at = self.head;
        (0..self.len).map(move |_| {
            let slot = at;
            at = self.links[slot].next;
            slot
        })
    }

    /// All slots, last to first.
    pub(super) fn backwards(&self) -> impl Iterator<Item = usize> + '_ {
        let mut at = self.head;
        (0..self.len).map(move |_| {
            at = self.links[at].prev;
            at
        })
    }

    pub(super) fn push_back(&mut self, slot: usize) {
        if slot >= self.links.len() {
            let empty = Link {
                prev: NONE,
                next: NONE,
            };
            self.links.resize(slot + 1, empty);
        }
        if self.len == 0 {
            self.head = slot;
            self.links[slot] = Link {
                prev: slot,
                next: slot,
            };
        } else {
            let (head, tail) = (self.head, self.links[self.head].prev);
            self.links[slot] = Link {
                prev: tail,
                next: head,
            };
            self.links[tail].next = slot;
            self.links[head].prev = slot;
        }
        self.len += 1;
    }

    /// Takes `slot` out; nothing happens if it is not in.
    pub(super) fn remove(&mut self, slot: usize) {
        let Some(&Link { prev, next }) = self.links.get(slot) else {
            return;
        };
        if next == NONE {
            return;
        }
        self.links[prev].next = next;
        self.links[next].prev = prev;
        self.links[slot] = Link {
            prev: NONE,
            next: NONE,
        };
        self.len -= 1;
        if self.len == 0 {
            self.head = NONE;
        } else if self.head == slot {
            self.head = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_vector(steps in prop::collection::vec(0..12usize, 0..200)) {
            let (mut ring, mut model) = (Ring::new(), Vec::new());
            for slot in steps {
                match model.iter().position(|s| *s == slot) {
                    Some(at) => {
                        ring.remove(slot);
                        model.remove(at);
                        ring.remove(slot);
                    }
                    None => {
                        ring.push_back(slot);
                        model.push(slot);
                    }
                }
                prop_assert_eq!(ring.iter().collect::<Vec<_>>(), model.clone());
                let backwards: Vec<_> = model.iter().rev().copied().collect();
                prop_assert_eq!(ring.backwards().collect::<Vec<_>>(), backwards);
                prop_assert_eq!(ring.first(), model.first().copied());
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.is_empty(), model.is_empty());
                for (at, slot) in model.iter().enumerate() {
                    prop_assert_eq!(ring.next(*slot), Some(model[(at + 1) % model.len()]));
                }
                prop_assert_eq!(ring.next(99), None);
            }
        }
    }
}
