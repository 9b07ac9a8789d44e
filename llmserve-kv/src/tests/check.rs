//! What must be true of a manager at any time, computed the slow way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use llmserve_core::{BlockId, BlockTables, Extras, GroupId, KvManager, SequenceId, TokenId};

use crate::PagedKv;
use crate::pool::Parent;
use crate::sequence::Sequence;

/// Everything a failed call must leave as it was.
pub(crate) fn snapshot(kv: &PagedKv) -> String {
    format!("{kv:?}")
}

/// Checks the pool against the tables of `open`, which must be all sequences there are.
pub(crate) fn invariants(kv: &PagedKv, open: &[SequenceId], forked: bool) {
    let pool = &kv.pool;
    let block_size = pool.block_size();
    let mut holders: BTreeMap<u32, Vec<(SequenceId, usize)>> = BTreeMap::new();
    for &sequence in open {
        for (at, block) in kv.table(sequence, GroupId::MAIN).iter().enumerate() {
            holders.entry(block.0).or_default().push((sequence, at));
        }
    }
    let (mut unused, mut cached_idle, mut idle) = (0, 0, 0);
    let mut kept = BTreeSet::new();
    for number in 0..pool.len() as u32 {
        let block = pool.block(BlockId(number));
        if block.is_kept() {
            let identity = pool.identity(BlockId(number));
            assert!(block.is_sealed() && pool.pins_of(identity) > 0);
            assert!(kept.insert(identity.as_u128()), "twins are kept");
        }
        let held_by = holders.get(&number).map_or(&[][..], Vec::as_slice);
        assert_eq!(block.refs as usize, held_by.len(), "references of {number}");
        assert_eq!(pool.is_idle(BlockId(number)), held_by.is_empty());
        if held_by.is_empty() {
            idle += 1;
            cached_idle += usize::from(block.label.is_some());
            assert!(block.label.as_ref().is_none_or(|label| label.sealed));
            continue;
        }
        let fill = held_by
            .iter()
            .map(|&(sequence, at)| kv.slots.get(sequence).expect("open").fill(at, block_size))
            .max()
            .unwrap_or(0);
        let told = if block.label.is_some() {
            block_size
        } else {
            fill
        };
        let lags = held_by.iter().any(|&(sequence, at)| {
            let sequence = kv.slots.get(sequence).expect("open");
            sequence.own_tail && at + 1 == sequence.table.len()
        });
        let fill = match lags {
            true => {
                assert!(
                    block.refs == 1 && block.label.is_none(),
                    "{number} is its own"
                );
                fill
            }
            false => block.fill as usize,
        };
        // A holder of a shared block that let go may have been the one with most tokens in it.
        assert!(fill == told || forked && fill > told);
        unused += block_size - fill;
        // Several holders agree upon where in the sequence the block is and what is in it; slots
        // that only one of them computed may differ.
        let (first, at) = held_by[0];
        for &(other, other_at) in held_by {
            assert_eq!(at, other_at);
            let (a, b) = (kv.slots.get(first), kv.slots.get(other));
            let (a, b) = (a.expect("open"), b.expect("open"));
            assert_eq!(a.extras, b.extras, "unrelated holders of {number}");
            let computed = |s: &Sequence| s.computed.min(s.tokens.len());
            let end = ((at + 1) * block_size).min(computed(a)).min(computed(b));
            if end <= at * block_size {
                continue; // one of them has nothing in it, and will not write to it while shared
            }
            assert_eq!(
                a.tokens[..end],
                b.tokens[..end],
                "unrelated holders of {number}"
            );
        }
    }
    let stats = kv.stats();
    assert_eq!(stats.held_blocks, holders.len());
    assert_eq!(kv.available(), idle);
    assert_eq!(stats.held_blocks + kv.available(), stats.total_blocks);
    assert_eq!(stats.cached_idle_blocks, cached_idle);
    assert_eq!(stats.unused_slots, unused);
    assert!(stats.peak_held_blocks >= stats.held_blocks);
    assert_eq!(stats.pinned_cached_blocks, kept.len());
    assert!(stats.pinned_cached_blocks <= stats.pinned_blocks);
    let is_kept = |number: &u32| pool.block(BlockId(*number)).is_kept();
    assert!(!pool.idle().iter().any(is_kept) && pool.idle_kept().iter().all(is_kept));
    let order = [pool.idle(), pool.idle_kept()].concat();
    assert_eq!(order.len(), idle);
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), idle);
}

/// The tokens `prefix` must find, by comparing content with every block there is.
pub(crate) fn naive_prefix(kv: &PagedKv, sequence: SequenceId) -> usize {
    let sequence = kv.slots.get(sequence).expect("open");
    let block_size = kv.pool.block_size();
    if !sequence.reuse || !sequence.table.is_empty() || !kv.prefix_caching() {
        return 0;
    }
    let mut parent = Parent::Root(&sequence.extras);
    let most = sequence.tokens.len().saturating_sub(1) / block_size;
    for at in 0..most {
        let tokens = sequence.block_tokens(at, block_size);
        let found = (0..kv.pool.len() as u32).find_map(|number| {
            let id = BlockId(number);
            (kv.pool.is_after(id, parent) && kv.pool.content(id) == tokens)
                .then(|| kv.pool.lineage(id))?
        });
        match found {
            Some(lineage) => parent = Parent::After(lineage),
            None => return at * block_size,
        }
    }
    most * block_size
}

/// The sealed blocks at the front of `tokens`, by comparing content with every block there is.
pub(crate) fn naive_front(kv: &PagedKv, tokens: &[TokenId], extras: &Extras) -> Vec<BlockId> {
    let extras = Arc::new(extras.clone());
    let mut parent = Parent::Root(&extras);
    let mut front = Vec::new();
    for tokens in tokens.chunks_exact(kv.pool.block_size()) {
        let found = (0..kv.pool.len() as u32).map(BlockId).find(|&id| {
            kv.pool.block(id).is_sealed()
                && kv.pool.is_after(id, parent)
                && kv.pool.content(id) == tokens
        });
        let Some(id) = found else { break };
        front.push(id);
        match kv.pool.lineage(id) {
            Some(lineage) => parent = Parent::After(lineage),
            None => break,
        }
    }
    front
}

/// Every pin is counted, and of what it names all that is cached is kept.
pub(crate) fn pins(kv: &PagedKv, pins: &[(Vec<TokenId>, Extras)], collide: bool) {
    let Some(chain) = kv.chain else {
        assert_eq!(kv.stats().pinned_blocks, 0);
        return;
    };
    let mut named = BTreeMap::new();
    for (tokens, extras) in pins {
        let identities = chain.identities(extras, tokens, kv.pool.block_size());
        for identity in &identities {
            *named.entry(*identity).or_insert(0) += 1;
        }
        for (id, identity) in naive_front(kv, tokens, extras).iter().zip(identities) {
            let lineage = kv.pool.lineage(*id);
            let kept = (0..kv.pool.len() as u32).map(BlockId).any(|other| {
                kv.pool.block(other).is_kept()
                    && kv.pool.identity(other) == identity
                    && (collide || kv.pool.lineage(other) == lineage)
            });
            assert!(kept || collide, "{id:?} is pinned and not kept");
        }
    }
    assert_eq!(kv.stats().pinned_blocks, named.len());
    for (identity, count) in named {
        assert_eq!(kv.pool.pins_of(identity), count);
    }
}

/// The identities of all sealed blocks.
pub(crate) fn sealed_identities(kv: &PagedKv) -> BTreeSet<u128> {
    (0..kv.pool.len() as u32)
        .map(BlockId)
        .filter(|&block| kv.pool.block(block).is_sealed())
        .map(|block| kv.pool.identity(block).as_u128())
        .collect()
}
