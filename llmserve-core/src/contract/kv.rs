//! The logical side of the paged KV cache: who owns which block.
//!
//! A [`KvManager`] maps each sequence's positions to blocks and knows which full blocks could
//! serve another sequence with the same prefix. It never touches keys or values: it hands out
//! [`BlockId`]s and emits the [`PageOp`]s that the model's page store must run before the step.
//!
//! ```text
//!  plan:    prefix ─► demand ─► allocate            blocks taken, full ones published
//!  device:  page ops, then the step writes K and V
//!  commit:  append (new tokens) ─► seal ─► trim / release / close
//!  failure: revoke                                  published identities stripped
//! ```

use crate::identity::{BlockIdentity, Extras};
use crate::ids::{BlockId, GroupId, SequenceId, TokenId};

/// The block table of every sequence: what a model needs to find keys and values.
pub trait BlockTables {
    /// The blocks of `sequence` in `group`, in position order; block `i` holds positions
    /// `i * block_size ..`. Empty for a sequence that holds none or is unknown.
    fn table(&self, sequence: SequenceId, group: GroupId) -> &[BlockId];
}

/// Sizes that the manager and the model's physical pages agree upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Tokens a block holds.
    pub block_size: usize,
    /// Blocks in each group, by [`GroupId`].
    pub blocks: Vec<usize>,
}

impl KvLayout {
    /// Blocks needed for `tokens` tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// Tokens the smallest group can hold.
    pub fn capacity_tokens(&self) -> usize {
        self.blocks.iter().min().copied().unwrap_or(0) * self.block_size
    }
}

/// How a sequence takes part in prefix caching.
#[derive(Clone, Debug)]
pub struct PrefixScope {
    /// What besides tokens must match; enters the chain at the first block.
    pub extras: Extras,
    /// Whether the sequence may start from blocks others computed. A request that wants logprobs
    /// of its prompt must compute it, so it takes no hits, but its blocks still serve others.
    pub reuse: bool,
}

impl Default for PrefixScope {
    fn default() -> Self {
        Self {
            extras: Extras::default(),
            reuse: true,
        }
    }
}

/// What an allocation would take. Nothing was changed by asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Available blocks that it would use up, idle cached ones and copies on write included.
    pub blocks: usize,
    /// Tokens at the front that need not be computed, because their blocks are cached: whole
    /// blocks, and always at least one token fewer than the sequence has. 0 for a sequence that
    /// holds blocks or may not reuse.
    pub cached: usize,
}

/// What a [pin](KvManager::pin) came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Whole blocks that were named; 0 from a manager that keeps nothing.
    pub blocks: usize,
    /// How many of them, from the front, are cached now.
    pub cached: usize,
}

/// A page operation that must run, in order, before the step that was planned with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageOp {
    /// Copy the first `slots` positions of one block to another (copy-on-write).
    Copy {
        /// Where both blocks live.
        group: GroupId,
        /// The shared block.
        from: BlockId,
        /// The private copy.
        to: BlockId,
        /// Positions to copy.
        slots: usize,
    },
}

/// What happened to cached blocks, for indexes elsewhere (a router, a shared tier).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockEvent {
    /// A block was computed and can be hit from now on.
    Stored {
        /// What the block is.
        identity: BlockIdentity,
        /// The block before it, none for a first block.
        parent: Option<BlockIdentity>,
        /// Its tokens.
        tokens: Vec<TokenId>,
    },
    /// A block was evicted.
    Removed {
        /// What it was.
        identity: BlockIdentity,
    },
    /// Everything was dropped.
    Cleared,
}

/// Counters and levels of a manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvStats {
    /// Blocks there are.
    pub total_blocks: usize,
    /// Blocks held by at least one sequence.
    pub held_blocks: usize,
    /// Blocks nobody holds whose content can still be hit.
    pub cached_idle_blocks: usize,
    /// Blocks that pins name, each once however many pins name it, cached or not.
    pub pinned_blocks: usize,
    /// How many of those are cached, idle or held. Fewer than are named where some are yet to be
    /// computed, or had to make room.
    pub pinned_cached_blocks: usize,
    /// Most blocks ever held at once.
    pub peak_held_blocks: usize,
    /// Token slots in held blocks that hold no token, now.
    pub unused_slots: usize,
    /// Prompt tokens that were looked up, once per request.
    pub query_tokens: u64,
    /// Prompt tokens that were found, once per request.
    pub hit_tokens: u64,
    /// Blocks evicted.
    pub evictions: u64,
    /// Blocks copied on write.
    pub copies: u64,
}

/// An allocation that did not fit. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} KV blocks needed, {available} available")]
pub struct OutOfBlocks {
    /// Blocks the allocation would have taken.
    pub needed: usize,
    /// Blocks there were.
    pub available: usize,
}

/// A call that the manager cannot honour. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// Not enough blocks now.
    #[error(transparent)]
    OutOfBlocks(#[from] OutOfBlocks),
    /// The sequence was never opened, or was closed.
    #[error("{0:?} is not open in the KV manager")]
    UnknownSequence(SequenceId),
    /// The sequence is open already.
    #[error("{0:?} is already open in the KV manager")]
    AlreadyOpen(SequenceId),
    /// A reset while sequences hold blocks.
    #[error("the KV cache cannot be reset while {held} blocks are held")]
    Held {
        /// Blocks held.
        held: usize,
    },
    /// More would be pinned than may be.
    #[error(
        "{pinned} KV blocks are pinned and {wanted} more were to be, {limit} may be: pin less, \
         unpin others or raise max_pinned_blocks()"
    )]
    TooManyPinned {
        /// Blocks pinned.
        pinned: usize,
        /// Blocks that are not, and were to be.
        wanted: usize,
        /// Most that may be.
        limit: usize,
    },
    /// The call does not fit the sequence's state.
    #[error("{sequence:?}: {reason}")]
    Invalid {
        /// Whose call.
        sequence: SequenceId,
        /// What does not fit.
        reason: &'static str,
    },
}

/// Owner of logical blocks. See the module's page for the order of calls.
///
/// Only a scheduler's `plan` may call [`allocate`](Self::allocate); only its `commit` may seal,
/// trim, fork, revoke, release and close.
pub trait KvManager: BlockTables + Send {
    /// Block size and number of blocks.
    fn layout(&self) -> &KvLayout;

    /// Makes a sequence known, with the tokens it has so far. Takes no block.
    ///
    /// # Errors
    /// [`KvError::AlreadyOpen`].
    fn open(
        &mut self,
        sequence: SequenceId,
        tokens: &[TokenId],
        scope: PrefixScope,
    ) -> Result<(), KvError>;

    /// Whether the sequence is open.
    fn is_open(&self, sequence: SequenceId) -> bool;

    /// Tokens at the front of a sequence without blocks that seem to be cached: what a policy
    /// asks of many sequences and often. 0 for one that holds blocks, is unknown, or may not
    /// reuse.
    ///
    /// Never less than the [`Demand::cached`] of a whole allocation now, and as a rule the same.
    /// But only identities need be looked at, where an allocation compares tokens: where two
    /// contents share an identity, or the front of what was cached is gone, it may be more. Rows
    /// are planned with what [`demand`](Self::demand) says.
    fn prefix(&self, sequence: SequenceId) -> usize;

    /// Tokens at the front that the first of two open sequences could share with the second: whole
    /// blocks of equal tokens in an equal [`PrefixScope`]. The default, 0, is right for a manager
    /// that cannot tell: what it costs is that both compute what one could.
    fn common_prefix(&self, _sequence: SequenceId, _with: SequenceId) -> usize {
        0
    }

    /// Blocks that nobody else holds, so that [`release`](Self::release) makes them available. By
    /// default all that the sequence holds in the main group.
    fn releasable(&self, sequence: SequenceId) -> usize {
        self.table(sequence, GroupId::MAIN).len()
    }

    /// What [`allocate`](Self::allocate) up to `tokens` would take: it succeeds exactly when the
    /// blocks are [`available`](Self::available), and returns exactly the cached tokens.
    ///
    /// # Errors
    /// [`KvError::UnknownSequence`].
    fn demand(&self, sequence: SequenceId, tokens: usize) -> Result<Demand, KvError>;

    /// Blocks that an allocation could use up now.
    fn available(&self) -> usize;

    /// Makes room for positions `0..tokens`: takes cached prefix blocks if the sequence holds
    /// none yet, then free blocks, evicting the least recently used. A last block shared with
    /// another sequence is copied. Full blocks whose tokens are known are published at once, so
    /// that a later row of the same step can hit them. Returns the cached tokens taken (0 if the
    /// sequence already held blocks).
    ///
    /// # Errors
    /// [`KvError::OutOfBlocks`], having changed nothing; [`KvError::UnknownSequence`].
    fn allocate(&mut self, sequence: SequenceId, tokens: usize) -> Result<usize, KvError>;

    /// Tells the manager which tokens came next.
    ///
    /// # Errors
    /// [`KvError::UnknownSequence`].
    fn append(&mut self, sequence: SequenceId, tokens: &[TokenId]) -> Result<(), KvError>;

    /// Positions `0..computed` hold valid keys and values: their full blocks become hits for
    /// good, and their [`BlockEvent::Stored`] are emitted.
    ///
    /// # Errors
    /// [`KvError::UnknownSequence`]; [`KvError::Invalid`] beyond the sequence's blocks.
    fn seal(&mut self, sequence: SequenceId, computed: usize) -> Result<(), KvError>;

    /// The step that wrote this sequence's unsealed blocks failed: they lose their identity.
    ///
    /// # Errors
    /// [`KvError::UnknownSequence`].
    fn revoke(&mut self, sequence: SequenceId) -> Result<(), KvError>;

    /// Keeps positions `0..tokens`, gives later blocks back and forgets later tokens.
    ///
    /// # Errors
    /// [`KvError::UnknownSequence`].
    fn trim(&mut self, sequence: SequenceId, tokens: usize) -> Result<(), KvError>;

    /// Opens `child` with all of `parent`'s tokens and blocks, shared until one of them writes.
    ///
    /// # Errors
    /// [`KvError::UnknownSequence`], [`KvError::AlreadyOpen`].
    fn fork(&mut self, parent: SequenceId, child: SequenceId) -> Result<(), KvError>;

    /// Gives all blocks back, tail first, and keeps the sequence open (preemption). Blocks that
    /// were published and never sealed lose their identity with their last holder.
    ///
    /// # Errors
    /// [`KvError::UnknownSequence`].
    fn release(&mut self, sequence: SequenceId) -> Result<(), KvError>;

    /// Gives all blocks back as [`release`](Self::release) does and forgets the sequence. An
    /// unknown one is no error.
    fn close(&mut self, sequence: SequenceId);

    /// Names the whole blocks of `tokens`, from the first on, as worth keeping: of all that could
    /// be evicted they are the last, now or when they come to be cached. They count as
    /// [`available`](Self::available) as before, so a sequence that needs them gets them, and
    /// nobody waits for the sake of a pin.
    ///
    /// Pins are counted: each needs its [`unpin`](Self::unpin). They outlast eviction and
    /// [`reset`](Self::reset). The default, nothing, is right for a manager that cannot.
    ///
    /// # Errors
    /// [`KvError::TooManyPinned`].
    fn pin(&mut self, tokens: &[TokenId], extras: &Extras) -> Result<Pinned, KvError> {
        let _ = (tokens, extras);
        Ok(Pinned::default())
    }

    /// Takes one [`pin`](Self::pin) of the same tokens and extras back. What no other pin names is
    /// from now on the latest used of what is ordinary. Of what nobody pinned it is no error.
    fn unpin(&mut self, tokens: &[TokenId], extras: &Extras) {
        let _ = (tokens, extras);
    }

    /// Whole blocks at the front of `tokens` that are cached, those not counted whose step has not
    /// succeeded yet. What [`Pinned::cached`] would be.
    fn cached_blocks(&self, tokens: &[TokenId], extras: &Extras) -> usize {
        let _ = (tokens, extras);
        0
    }

    /// Forgets every cached block.
    ///
    /// # Errors
    /// [`KvError::Held`] while any sequence holds a block.
    fn reset(&mut self) -> Result<(), KvError>;

    /// Moves the page operations planned since the last call to the end of `out`.
    fn take_page_ops(&mut self, out: &mut Vec<PageOp>);

    /// Moves the block events since the last call to the end of `out`. A manager keeps events
    /// only when it was built to.
    fn take_events(&mut self, out: &mut Vec<BlockEvent>);

    /// Counters and levels.
    fn stats(&self) -> KvStats;
}
