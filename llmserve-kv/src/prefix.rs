//! Prefixes by identity alone: no tokens are compared.
//!
//! An identity is chained from those before it, and what can be found is a chain's front: a block
//! is given back after those that follow it, so it is also evicted after them. Where a front ends
//! is therefore found by halving, at the cost of a few blocks however long it is, or of one where
//! all is there.
//!
//! ```text
//!  identities   0  1  2  3  4  5  6  7
//!  findable     x  x  x  x  x  -  -  -      7? no   3? yes   5? no   4? yes  ─► the first five
//! ```
//!
//! The front itself can be missing: what a block holds is forgotten also when a holder writes to it
//! anew (after a trim, or in a fork that is behind its parent), and when the step that fills it fails.
//! Blocks behind it are then found here that no walk from the front gets to, until they are evicted.
//! So this tells too much at times, and never too little, for the block it ends at is not there.

use crate::pool::Pool;
use crate::sequence::Sequence;

/// Blocks that a sequence without any may find cached.
pub(crate) fn findable(pool: &Pool, sequence: &Sequence) -> usize {
    if !sequence.may_hit() {
        return 0;
    }
    let identities = &sequence.identities;
    let most = sequence.most_hits(pool.block_size());
    partition(most, |at| pool.is_findable(identities[at]))
}

/// Blocks at the front that are the same in both.
pub(crate) fn common(one: &Sequence, other: &Sequence) -> usize {
    let blocks = one.identities.len().min(other.identities.len());
    partition(blocks, |at| one.identities[at] == other.identities[at])
}

/// How many of `0..len` come before the first for which `holds` does not.
fn partition(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    if len == 0 || holds(len - 1) {
        return len;
    }
    let (mut low, mut high) = (0, len - 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match holds(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}
