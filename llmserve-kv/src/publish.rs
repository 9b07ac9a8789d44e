//! How blocks become findable, and permanently so.
//!
//! ```text
//!  allocate ─► publish   full blocks that the planned step fills: writing
//!  seal     ─► settle    full blocks that hold valid keys and values: sealed
//!  append   ─► settle    the same, for tokens that were computed before they were known
//! ```

use std::ops::Range;

use crate::pool::{Parent, Pool};
use crate::sequence::Sequence;

/// Whether the sequence's last block is its own, remembered so that the next rows need not look.
pub(crate) fn keep_tail(pool: &mut Pool, sequence: &mut Sequence) {
    let tail = sequence.table.as_slice().last().copied();
    let own = tail.filter(|id| pool.is_private(*id));
    if let Some(id) = own {
        // Another holder, gone since, may have had more tokens in it.
        let last = sequence.table.len() - 1;
        pool.note_fill(id, sequence.fill(last, pool.block_size()));
    }
    sequence.own_tail = own.is_some();
}

/// Brings what the pool knows of the sequence's last block up to date, before anyone looks at it.
pub(crate) fn tell_tail(pool: &mut Pool, sequence: &mut Sequence) {
    if std::mem::take(&mut sequence.own_tail)
        && let Some(last) = sequence.table.len().checked_sub(1)
    {
        let fill = sequence.fill(last, pool.block_size());
        pool.tell_fill(sequence.table[last], fill);
    }
}

/// Labels the full blocks of known tokens below position `end`.
pub(crate) fn publish(pool: &mut Pool, sequence: &mut Sequence, end: usize) {
    let full = full_blocks(pool, sequence, end);
    sequence.published = label(pool, sequence, sequence.published..full);
}

/// Seals the full blocks of known, computed tokens.
pub(crate) fn settle(pool: &mut Pool, sequence: &mut Sequence) {
    let full = full_blocks(pool, sequence, sequence.computed);
    if sequence.sealed >= full {
        return;
    }
    tell_tail(pool, sequence);
    let labelled = label(pool, sequence, sequence.sealed..full);
    for at in sequence.sealed..labelled {
        let parent = at.checked_sub(1).map(|before| sequence.identities[before]);
        pool.seal(sequence.table[at], sequence.identities[at], parent);
    }
    sequence.sealed = labelled;
    sequence.published = sequence.published.max(sequence.sealed);
    keep_tail(pool, sequence);
}

/// Whether the blocks below position `end` that others filled are still what they were hit for:
/// a writer whose step failed has taken its labels back.
pub(crate) fn is_vouched_for(pool: &Pool, sequence: &Sequence, end: usize) -> bool {
    let taken = full_blocks(pool, sequence, end).min(sequence.own_from);
    (sequence.sealed..taken).all(|at| pool.block(sequence.table[at]).label.is_some())
}

/// Takes the labels back from blocks that no successful step is known to have filled.
pub(crate) fn revoke(pool: &mut Pool, sequence: &mut Sequence) {
    for &id in sequence.table.as_slice().iter().skip(sequence.sealed) {
        if !pool.block(id).is_sealed() {
            pool.strip(id);
        }
    }
    sequence.published = sequence.sealed;
    sequence.planned = sequence.computed.max(sequence.taken(pool.block_size()));
}

fn full_blocks(pool: &Pool, sequence: &Sequence, end: usize) -> usize {
    (end / pool.block_size())
        .min(sequence.identities.len())
        .min(sequence.table.len())
}

/// Makes sure that the blocks `range` are labelled, in order, and tells up to where: this sequence
/// may not be able to say what is in one.
fn label(pool: &mut Pool, sequence: &Sequence, range: Range<usize>) -> usize {
    if range.is_empty() {
        return range.start;
    }
    let mut parent = match range.start.checked_sub(1) {
        None => Some(Parent::Root(&sequence.extras)),
        Some(before) => pool.lineage(sequence.table[before]).map(Parent::After),
    };
    for at in range.clone() {
        let id = sequence.table[at];
        let lineage = match (pool.lineage(id), parent) {
            (Some(lineage), _) => lineage,
            (None, Some(parent)) if at >= sequence.own_from => {
                let tokens = sequence.block_tokens(at, pool.block_size());
                pool.publish(id, sequence.identities[at], parent, tokens)
            }
            _ => return at,
        };
        parent = Some(Parent::After(lineage));
    }
    range.end
}
