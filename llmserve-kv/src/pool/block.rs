//! What is known of one block.

use std::num::NonZeroU64;
use std::sync::Arc;

use llmserve_core::Extras;

use crate::free_list::Ring;

/// The number of a line of content: equal for two blocks exactly when their tokens, and those of
/// every block before them, and the extras at the root were compared and found equal.
///
/// Comparing a parent's *identity* would not do: two contents that share an identity by accident
/// or malice have children that share one too. A line's number is never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lineage(pub(super) NonZeroU64);

/// What a block's content depends on besides its own tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parent<'a> {
    /// A first block: what was computed under these extras.
    Root(&'a Arc<Extras>),
    /// The block that follows this line.
    After(Lineage),
}

/// What makes a block findable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    /// The line before this block's; none for a first block, whose extras the pool keeps apart.
    pub(super) after: Option<Lineage>,
    pub(crate) lineage: Lineage,
    /// False while the step that fills the block has not succeeded yet.
    pub(crate) sealed: bool,
    /// Whether it is the block that is kept for a pinned identity; only a sealed one is.
    pub(crate) kept: bool,
}

/// One block: who holds it and what is in it. Two of them fit a cache line.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// Tables that hold it. The block is in the free list exactly when there are none.
    pub(crate) refs: u32,
    /// Slots for which a holder has a token; all of them under a label.
    pub(crate) fill: u32,
    /// None for a blank block.
    pub(crate) label: Option<Label>,
}

const _: () = assert!(size_of::<Block>() == 32);

impl Block {
    pub(crate) fn is_sealed(&self) -> bool {
        self.label.is_some_and(|label| label.sealed)
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.label.is_some_and(|label| label.kept)
    }

    /// Where it waits while nobody holds it.
    pub(super) fn ring(&self) -> Ring {
        match self.is_kept() {
            true => Ring::Kept,
            false => Ring::Ordinary,
        }
    }
}
