//! Building a manager, with every limit checked first.

use llmserve_core::{IdentityRoot, KvLayout};

use crate::chain::Chain;
use crate::manager::PagedKv;
use crate::pool::Pool;
use crate::slots::Slots;
use crate::stats::Counters;

/// Most blocks a manager can number: one number is kept as a mark.
const MAX_BLOCKS: usize = u32::MAX as usize - 1;

/// Most tokens a block may hold. Larger blocks share nothing and waste half of themselves.
const MAX_BLOCK_SIZE: usize = 1 << 16;

/// Why a manager was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No number of blocks was given, or zero.
    #[error("a KV cache needs at least one block: set blocks()")]
    NoBlocks,
    /// More blocks than block numbers.
    #[error("{blocks} KV blocks asked for, {max} can be numbered: raise block_size()")]
    TooManyBlocks {
        /// Blocks asked for.
        blocks: usize,
        /// The limit.
        max: usize,
    },
    /// The block size is zero, or larger than any use for it.
    #[error("a KV block of {block_size} tokens: block_size() takes 1 to {max}")]
    BlockSize {
        /// Tokens a block was to hold.
        block_size: usize,
        /// The limit.
        max: usize,
    },
    /// The token slots of all blocks cannot be counted, or their tokens not be kept in memory.
    #[error("{blocks} KV blocks of {block_size} tokens are more than memory holds")]
    TooLarge {
        /// Blocks asked for.
        blocks: usize,
        /// Tokens a block was to hold.
        block_size: usize,
    },
    /// The model has KV groups that one manager cannot serve yet.
    #[error("{groups} KV groups asked for, this manager serves exactly one")]
    Groups {
        /// Groups asked for.
        groups: usize,
    },
    /// Prefix caching is on and nobody said whose keys and values these are.
    #[error("prefix caching needs an identity root: set root(), or prefix_caching(false)")]
    NoRoot,
    /// No sequence could be opened, or more than sequence slots are numbered.
    #[error("max_sequences() is {max_sequences}; it takes 1 to {max}")]
    MaxSequences {
        /// The number given.
        max_sequences: usize,
        /// The limit.
        max: usize,
    },
    /// More blocks may be pinned than there are.
    #[error("max_pinned_blocks() is {max_pinned_blocks}; it takes at most blocks(), {blocks}")]
    MaxPinnedBlocks {
        /// The number given.
        max_pinned_blocks: usize,
        /// Blocks there are.
        blocks: usize,
    },
}

/// Settings of a [`PagedKv`].
///
/// ```
/// use llmserve_core::{IdentityRoot, KvManager};
/// use llmserve_kv::{BuildError, PagedKv};
///
/// let kv = PagedKv::builder()
///     .blocks(128)
///     .root(IdentityRoot::new(7, "bf16", 16))
///     .events(true)
///     .build()?;
/// assert_eq!(kv.layout().capacity_tokens(), 128 * 16);
///
/// let refused = PagedKv::builder().blocks(128).prefix_caching(false).groups(2).build();
/// assert_eq!(refused.err(), Some(BuildError::Groups { groups: 2 }));
/// # Ok::<(), BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct PagedKvBuilder {
    blocks: usize,
    block_size: usize,
    groups: usize,
    root: Option<IdentityRoot>,
    prefix_caching: bool,
    events: bool,
    max_sequences: usize,
    max_pinned_blocks: Option<usize>,
}

impl Default for PagedKvBuilder {
    fn default() -> Self {
        Self {
            blocks: 0,
            block_size: 16,
            groups: 1,
            root: None,
            prefix_caching: true,
            events: false,
            max_sequences: 1 << 20,
            max_pinned_blocks: None,
        }
    }
}

impl PagedKvBuilder {
    /// How many blocks there are. Required.
    pub fn blocks(mut self, blocks: usize) -> Self {
        self.blocks = blocks;
        self
    }

    /// Tokens a block holds, 16 unless said. Any number from 1 on: small blocks share more and
    /// waste less, large ones cost less bookkeeping.
    pub fn block_size(mut self, tokens: usize) -> Self {
        self.block_size = tokens;
        self
    }

    /// KV groups of the model, 1 unless said. More than one is refused by [`build`](Self::build).
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Where identities start: the weights, the KV layout and the block size. Required unless
    /// prefix caching is off.
    pub fn root(mut self, root: IdentityRoot) -> Self {
        self.root = Some(root);
        self
    }

    /// Whether full blocks are kept to be found by other sequences; on unless said.
    pub fn prefix_caching(mut self, on: bool) -> Self {
        self.prefix_caching = on;
        self
    }

    /// Whether [`BlockEvent`](llmserve_core::BlockEvent)s are kept until they are taken; off unless
    /// said. Who turns this on must take them, or they pile up.
    pub fn events(mut self, on: bool) -> Self {
        self.events = on;
        self
    }

    /// The first [`slot`](llmserve_core::SequenceId::slot) number that is refused, 2²⁰ unless said.
    /// A bound on memory: a slot costs about 150 bytes, open or not, up to the highest ever used.
    pub fn max_sequences(mut self, sequences: usize) -> Self {
        self.max_sequences = sequences;
        self
    }

    /// Most blocks that [pins](llmserve_core::KvManager::pin) may name, half of all unless said: what
    /// they name is evicted after all else, and others' prompts want to be cached too.
    pub fn max_pinned_blocks(mut self, blocks: usize) -> Self {
        self.max_pinned_blocks = Some(blocks);
        self
    }

    /// Builds the manager.
    ///
    /// # Errors
    /// A [`BuildError`] for the first setting that cannot be honoured.
    pub fn build(self) -> Result<PagedKv, BuildError> {
        let Self {
            blocks, block_size, ..
        } = self;
        if self.groups != 1 {
            return Err(BuildError::Groups {
                groups: self.groups,
            });
        }
        if blocks == 0 {
            return Err(BuildError::NoBlocks);
        }
        if blocks > MAX_BLOCKS {
            return Err(BuildError::TooManyBlocks {
                blocks,
                max: MAX_BLOCKS,
            });
        }
        if block_size == 0 || block_size > MAX_BLOCK_SIZE {
            return Err(BuildError::BlockSize {
                block_size,
                max: MAX_BLOCK_SIZE,
            });
        }
        let max = u32::MAX as usize;
        if self.max_sequences == 0 || self.max_sequences > max {
            return Err(BuildError::MaxSequences {
                max_sequences: self.max_sequences,
                max,
            });
        }
        let max_pinned_blocks = self.max_pinned_blocks.unwrap_or(blocks / 2);
        if max_pinned_blocks > blocks {
            return Err(BuildError::MaxPinnedBlocks {
                max_pinned_blocks,
                blocks,
            });
        }
        let chain = match (self.prefix_caching, self.root) {
            (true, None) => return Err(BuildError::NoRoot),
            (true, Some(root)) => Some(Chain::new(root)),
            (false, _) => None,
        };
        let mut pool = Pool::new(blocks as u32, block_size, chain.is_some(), self.events)
            .ok_or(BuildError::TooLarge { blocks, block_size })?;
        pool.limit_pins(max_pinned_blocks);
        Ok(PagedKv {
            layout: KvLayout {
                block_size,
                blocks: vec![blocks],
            },
            chain,
            slots: Slots::new(self.max_sequences),
            pool,
            page_ops: Vec::new(),
            counters: Counters::default(),
            hits: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> PagedKvBuilder {
        PagedKv::builder()
            .blocks(4)
            .root(IdentityRoot::new(1, "f32", 16))
    }

    fn refused(builder: PagedKvBuilder) -> BuildError {
        builder.build().expect_err("must be refused")
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        assert!(builder().build().is_ok());
        assert_eq!(refused(builder().blocks(0)), BuildError::NoBlocks);
        assert_eq!(refused(PagedKv::builder()), BuildError::NoBlocks);
        assert!(matches!(
            refused(builder().blocks(u32::MAX as usize)),
            BuildError::TooManyBlocks { .. }
        ));
        for size in [0, MAX_BLOCK_SIZE + 1, usize::MAX] {
            assert!(matches!(
                refused(builder().block_size(size)),
                BuildError::BlockSize { block_size, .. } if block_size == size
            ));
        }
        for groups in [0, 2] {
            assert_eq!(
                refused(builder().groups(groups)),
                BuildError::Groups { groups }
            );
        }
        assert_eq!(refused(PagedKv::builder().blocks(1)), BuildError::NoRoot);
        assert!(
            PagedKv::builder()
                .blocks(1)
                .prefix_caching(false)
                .build()
                .is_ok()
        );
        assert!(matches!(
            refused(builder().max_sequences(0)),
            BuildError::MaxSequences { .. }
        ));
        assert_eq!(
            refused(builder().max_pinned_blocks(5)),
            BuildError::MaxPinnedBlocks {
                max_pinned_blocks: 5,
                blocks: 4
            }
        );
        assert!(builder().max_pinned_blocks(4).build().is_ok());
    }

    #[test]
    fn more_slots_than_can_be_counted_are_refused_without_trying() {
        let (blocks, block_size) = (MAX_BLOCKS, MAX_BLOCK_SIZE);
        assert_eq!(
            refused(builder().blocks(blocks).block_size(block_size)),
            BuildError::TooLarge { blocks, block_size }
        );
    }
}
