//! What an allocation needs, told before anything changes.

use std::ops::Range;

use llmserve_core::BlockId;

use crate::pool::{Parent, Pool};
use crate::sequence::Sequence;

/// The idle blocks an allocation uses up. `demand` reports their sum and `allocate` takes exactly
/// that many: both come from [`need`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Cached blocks that the sequence starts from.
    pub(crate) hits: usize,
    /// How many of them nobody holds now.
    pub(crate) idle_hits: usize,
    /// Shared blocks that will be written and are replaced.
    pub(crate) copies: usize,
    /// Blocks the table grows by, hits aside.
    pub(crate) fresh: usize,
}

impl Need {
    pub(crate) fn total(&self) -> usize {
        self.idle_hits + self.copies + self.fresh
    }
}

/// What room for positions `0..tokens` takes. `each` is told the blocks hit, in order.
pub(crate) fn need(
    pool: &Pool,
    sequence: &Sequence,
    tokens: usize,
    each: impl FnMut(BlockId),
) -> Need {
    if tokens == 0 {
        return Need::default();
    }
    let block_size = pool.block_size();
    let (hits, idle_hits) = look_up(pool, sequence, each);
    let have = sequence.table.len() + hits;
    Need {
        hits,
        idle_hits,
        copies: writes(sequence, tokens, block_size)
            .filter(|&at| pool.block(sequence.table[at]).refs > 1)
            .count(),
        fresh: tokens.div_ceil(block_size).saturating_sub(have),
    }
}

/// The cached blocks a sequence may start from, and how many of them are idle.
fn look_up(pool: &Pool, sequence: &Sequence, mut each: impl FnMut(BlockId)) -> (usize, usize) {
    let (mut hits, mut idle) = (0, 0);
    if !sequence.may_hit() {
        return (hits, idle);
    }
    let block_size = pool.block_size();
    let most = sequence.most_hits(block_size);
    let mut parent = Parent::Root(&sequence.extras);
    for (at, &identity) in sequence.identities.iter().take(most).enumerate() {
        let tokens = sequence.block_tokens(at, block_size);
        let Some(id) = pool.find(identity, parent, tokens) else {
            break;
        };
        let Some(lineage) = pool.lineage(id) else {
            break;
        };
        hits += 1;
        idle += usize::from(pool.block(id).refs == 0);
        parent = Parent::After(lineage);
        each(id);
    }
    (hits, idle)
}

/// Blocks of the table that a step up to `tokens` writes to.
///
/// The write starts after what earlier plans cover, not after what is known to be computed:
/// their steps may still be in flight, filling slots of a block that was shared since.
pub(crate) fn writes(sequence: &Sequence, tokens: usize, block_size: usize) -> Range<usize> {
    let held = sequence.table.len();
    if tokens <= sequence.planned {
        return held..held;
    }
    let first = (sequence.planned / block_size).min(held);
    first..tokens.div_ceil(block_size).clamp(first, held)
}
