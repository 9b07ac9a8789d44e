//! Where in a fleet a replica is.

/// A replica's place in its fleet, for as long as it is a member.
///
/// The index is small and reused after the replica was removed, then with another generation: an
/// array by index is a fit memory for a strategy, and what comes late for a former member of the
/// place is told apart.
///
/// ```
/// use llmserve_route::Slot;
/// let former = Slot::new(3, 0);
/// let present = Slot::new(3, 1);
/// assert_eq!(former.index(), present.index());
/// assert_ne!(former, present);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// The place `index`, held by its member number `generation`. Fleets make them; tests of a
    /// strategy may.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The place, from 0, below the most members there ever were at once.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// How many members had the place before.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}
