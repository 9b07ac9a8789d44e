//! Small identifiers shared by every crate.

use std::fmt;

/// A token's index in the vocabulary.
pub type TokenId = u32;

/// One sequence (one choice of one request) inside one engine.
///
/// A slot number, so that tables indexed by sequence are plain vectors, and a generation, so that
/// a late result for a slot's former owner is recognised and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    slot: u32,
    generation: u32,
}

impl SequenceId {
    /// The identifier of the `generation`-th owner of `slot`.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The slot: dense, reused after the sequence ends.
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// How many owners the slot had before this one.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq {}.{}", self.slot, self.generation)
    }
}

/// A physical KV block within its group, `0..blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct BlockId(pub u32);

impl BlockId {
    /// The block's number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A KV group: layers that share one block table per sequence (full attention, one sliding
/// window size, a draft model).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct GroupId(pub u16);

impl GroupId {
    /// The group every model has: its first.
    pub const MAIN: GroupId = GroupId(0);
}
