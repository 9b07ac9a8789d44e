//! Prefixes by identity alone: no tokens are compared.
//!
//! An identity is chained from those before it, and what can be found is a chain's front: a block
//! is given back after those that follow it, so it is also evicted after them. Where a front ends
//! is therefore found by dividing, at the cost of a few blocks however long it is, or of one where
//! all is there.
//!
//! ```text
//!  identities   0  1  2  3  4  5  6  7
//!  findable     x  x  x  x  x  -  -  -      7? no   1, 3, 5? yes, yes, no   4? yes   ─► five
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
    // Those before `low` hold, the one at `high` does not. Three are asked at a time, for what is
    // waited for is memory, and three can be waited for at once.
    let (mut low, mut high) = (0, len - 1);
    while low < high {
        let step = (high - low).div_ceil(4);
        let at = [1, 2, 3].map(|nth| (low + nth * step - 1).min(high));
        match at.map(|at| at < high && holds(at)) {
            [false, ..] => high = at[0],
            [true, false, _] => (low, high) = (at[0] + 1, at[1]),
            [true, true, false] => (low, high) = (at[1] + 1, at[2]),
            [true, true, true] => low = at[2] + 1,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::partition;
    use std::cell::Cell;

    #[test]
    fn what_comes_before_the_first_that_does_not_hold_is_found_by_few_questions() {
        for len in 0..300 {
            for first in 0..=len {
                let asked = Cell::new(0);
                let found = partition(len, |at| {
                    assert!(at < len);
                    asked.set(asked.get() + 1);
                    at < first
                });
                assert_eq!(found, first, "of {len}");
                let rounds = len.max(1).ilog(4) + 1;
                assert!(asked.get() <= 1 + 3 * rounds, "{} for {len}", asked.get());
            }
        }
    }

    /// Where some are missing in the middle it may tell too much, and never too little.
    #[test]
    fn it_ends_at_one_that_does_not_hold_whatever_the_order() {
        for bits in 0..1u32 << 12 {
            let found = partition(12, |at| bits >> at & 1 == 1);
            assert!(found == 12 || bits >> found & 1 == 0, "{found} of {bits:b}");
        }
    }
}
