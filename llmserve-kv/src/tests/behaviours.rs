//! Behaviours that users of paged, prefix-caching engines rely on, as vLLM's V1 core has them. No
//! block is reserved here, so a cache that has N blocks there has N − 1 here, numbered from 0.

use llmserve_core::{Demand, Extras, KvError, KvManager, OutOfBlocks, PrefixScope};

use super::check::snapshot;
use super::{id, kv};
use crate::PagedKv;

/// Three full blocks, all different.
fn common() -> Vec<u32> {
    (0..48).map(|token| token / 16).collect()
}

fn with_tail(tail: usize, token: u32) -> Vec<u32> {
    let mut tokens = common();
    tokens.extend(std::iter::repeat_n(token, tail));
    tokens
}

fn salted(salt: &str) -> PrefixScope {
    PrefixScope {
        extras: Extras::default().tenant(salt),
        reuse: true,
    }
}

#[test]
fn a_common_prefix_is_shared_and_tails_are_evicted_before_heads() {
    let mut kv = kv(10, 16);
    assert_eq!(kv.start(0, &with_tail(7, 3)), 0);
    assert_eq!(kv.blocks_of(0), [0, 1, 2, 3]);
    assert!(kv.pool.block(llmserve_core::BlockId(3)).label.is_none());

    kv.open(id(1), &with_tail(5, 3), PrefixScope::default())
        .expect("fresh");
    assert_eq!(kv.prefix(id(1)), 48);
    let demand = Demand {
        blocks: 1,
        cached: 48,
    };
    assert_eq!(kv.demand(id(1), 53), Ok(demand));
    assert_eq!(kv.allocate(id(1), 53), Ok(48));
    assert_eq!(kv.blocks_of(1), [0, 1, 2, 4]);
    assert_eq!(kv.available(), 5);

    kv.close(id(0));
    kv.close(id(1));
    assert_eq!(kv.available(), 10);
    // Blank blocks first, then the cached ones, last before first.
    let order = kv.pool.idle();
    assert_eq!(order[..2], [4, 3]);
    assert_eq!(order[7..], [2, 1, 0]);

    let other: Vec<u32> = (100..260).collect();
    assert_eq!(kv.start(2, &other), 0);
    assert_eq!(kv.available(), 0);
    assert_eq!(kv.blocks_of(2), order);
    assert_eq!(kv.stats().evictions, 3);
}

#[test]
fn at_least_one_token_is_computed_and_only_whole_blocks_hit() {
    let mut kv = kv(10, 16);
    kv.start(0, &common());
    assert_eq!(kv.start(1, &common()), 32);
}

#[test]
fn a_reused_block_keeps_no_identity() {
    let mut kv = kv(1, 16);
    kv.start(0, &common()[..16]);
    kv.close(id(0));
    assert_eq!(kv.stats().cached_idle_blocks, 1);
    kv.start(1, &[7; 15]);
    assert_eq!(kv.blocks_of(1), [0]);
    assert!(kv.pool.block(llmserve_core::BlockId(0)).label.is_none());
    kv.close(id(1));
    assert_eq!(kv.stats().cached_idle_blocks, 0);
}

#[test]
fn a_block_that_is_hit_is_not_evicted_by_the_same_allocation() {
    let mut kv = kv(2, 16);
    let (a, b) = (&common()[..16], &common()[16..32]);
    kv.start(0, a);
    kv.start(1, b);
    assert_eq!((kv.blocks_of(0), kv.blocks_of(1)), (vec![0], vec![1]));
    kv.close(id(0));
    kv.close(id(1));
    assert_eq!(kv.start(2, &common()[..32]), 16);
    assert_eq!(kv.blocks_of(2), [0, 1]);
}

#[test]
fn appending_fills_the_last_block_then_takes_another_and_publishes_the_full_one() {
    let mut kv = kv(10, 16);
    kv.start(0, &with_tail(7, 3));
    kv.append(id(0), &[4; 4]).expect("open");
    assert_eq!(kv.needs(id(0), 59), 0);
    kv.allocate(id(0), 59).expect("room");
    assert_eq!(kv.blocks_of(0).len(), 4);

    kv.append(id(0), &[5; 15]).expect("open");
    assert_eq!(kv.needs(id(0), 74), 1);
    kv.allocate(id(0), 74).expect("room");
    assert_eq!(kv.blocks_of(0).len(), 5);
    let full = kv.pool.block(llmserve_core::BlockId(3));
    assert!(full.label.as_ref().is_some_and(|label| !label.sealed));
    kv.seal(id(0), 74).expect("allocated");
    assert!(kv.pool.block(llmserve_core::BlockId(3)).is_sealed());
}

#[test]
fn a_request_for_prompt_logprobs_takes_no_hits_but_serves_others() {
    let mut kv = kv(20, 16);
    let all = PrefixScope {
        reuse: false,
        ..PrefixScope::default()
    };
    kv.start_scoped(0, &with_tail(7, 3), all.clone());
    assert_eq!(kv.start(1, &with_tail(5, 9)), 48);
    assert_eq!(kv.start_scoped(2, &with_tail(7, 3), all), 0);
    assert_eq!(kv.stats().query_tokens, 53);
}

#[test]
fn a_salt_separates_tenants_from_the_first_block_on() {
    let mut kv = kv(20, 16);
    assert_eq!(kv.start_scoped(0, &with_tail(7, 3), salted("one")), 0);
    assert_eq!(kv.start_scoped(1, &with_tail(7, 3), salted("one")), 48);
    assert_eq!(kv.start_scoped(2, &with_tail(7, 3), salted("two")), 0);
    assert_eq!(kv.start(3, &with_tail(7, 3)), 0);
    // It enters the chain there and nowhere else: later identities differ only through it.
    let sequence = kv.slots.get(id(0)).expect("open");
    let tokens = sequence.block_tokens(1, 16);
    assert_eq!(sequence.identities[0].next(tokens), sequence.identities[1]);
}

#[test]
fn of_two_blocks_with_one_identity_the_other_is_found_after_one_is_evicted() {
    let mut kv = kv(4, 16);
    // Neither may hit all of a 16-token prompt, so both compute it.
    kv.start(0, &common()[..16]);
    kv.start(1, &common()[..16]);
    assert_eq!((kv.blocks_of(0), kv.blocks_of(1)), (vec![0], vec![1]));
    let stored = kv.news();
    assert_eq!(
        stored.len(),
        1,
        "the identity is announced once: {stored:?}"
    );
    kv.close(id(0));
    let other: Vec<u32> = (100..148).collect();
    kv.start(2, &other);
    assert_eq!(kv.stats().evictions, 1);
    assert_eq!(kv.news().len(), 3, "three new ones, nothing is gone");
    kv.close(id(2));
    assert_eq!(kv.start(3, &common()[..17]), 16);
    assert_eq!(kv.blocks_of(3)[0], 1);
}

#[test]
fn a_reset_waits_until_nothing_is_held_and_forgets_everything() {
    let mut kv = kv(10, 16);
    kv.start(0, &with_tail(7, 3));
    assert_eq!(kv.reset(), Err(KvError::Held { held: 4 }));
    assert_eq!(kv.blocks_of(0).len(), 4);
    kv.release(id(0)).expect("open");
    kv.reset().expect("nothing is held");
    assert_eq!(kv.stats().cached_idle_blocks, 0);
    assert_eq!(kv.news().last(), Some(&llmserve_core::BlockEvent::Cleared));
    assert_eq!(kv.prefix(id(0)), 0);
}

#[test]
fn without_caching_blocks_come_and_go_and_a_full_cache_refuses() {
    let mut kv = PagedKv::builder()
        .blocks(4)
        .block_size(4)
        .prefix_caching(false)
        .build()
        .expect("valid settings");
    kv.start(0, &[1; 10]);
    assert_eq!(kv.blocks_of(0).len(), 3);
    kv.close(id(0));
    kv.start(1, &[2; 16]);
    assert_eq!(kv.blocks_of(1).len(), 4);
    kv.append(id(1), &[2; 4]).expect("open");
    let before = snapshot(&kv);
    let full = OutOfBlocks {
        needed: 1,
        available: 0,
    };
    assert_eq!(kv.allocate(id(1), 20), Err(full.into()));
    assert_eq!(snapshot(&kv), before);
    assert_eq!(kv.stats().query_tokens, 0);
}

#[test]
fn an_allocation_that_does_not_fit_changes_nothing() {
    let mut kv = kv(10, 16);
    kv.start(0, &with_tail(0, 0));
    kv.close(id(0));
    kv.start(1, &(200..296).collect::<Vec<u32>>());
    // 3 idle hits and 2 more blocks, of which 1 is free.
    let mut long = with_tail(20, 9);
    long.extend([8; 12]);
    kv.open(id(2), &long, PrefixScope::default())
        .expect("fresh");
    assert_eq!(kv.needs(id(2), 80), 5);
    let order = kv.pool.idle();
    let stats = kv.stats();
    assert_eq!(
        kv.allocate(id(2), 80),
        Err(KvError::OutOfBlocks(OutOfBlocks {
            needed: 5,
            available: 4
        }))
    );
    assert_eq!(kv.pool.idle(), order);
    assert_eq!(kv.stats(), stats);
    assert!(kv.blocks_of(2).is_empty());
    // A shorter step fits, hits included.
    assert_eq!(kv.allocate(id(2), 64), Ok(48));
    assert_eq!(kv.available(), 0);
}

#[test]
fn retries_and_readmissions_are_counted_once_in_the_hit_statistics() {
    let mut kv = kv(10, 16);
    kv.start(0, &with_tail(7, 3));
    assert_eq!((kv.stats().query_tokens, kv.stats().hit_tokens), (55, 0));
    kv.open(id(1), &with_tail(100, 4), PrefixScope::default())
        .expect("fresh");
    for _ in 0..3 {
        assert!(kv.allocate(id(1), 148).is_err());
        assert_eq!(kv.prefix(id(1)), 48);
    }
    assert_eq!(kv.stats().query_tokens, 55);
    kv.allocate(id(1), 60).expect("room");
    assert_eq!((kv.stats().query_tokens, kv.stats().hit_tokens), (203, 48));
    kv.release(id(1)).expect("open");
    assert_eq!(kv.allocate(id(1), 60), Ok(48));
    kv.fork(id(1), id(2)).expect("fresh");
    kv.release(id(2)).expect("open");
    kv.allocate(id(2), 60).expect("room");
    assert_eq!((kv.stats().query_tokens, kv.stats().hit_tokens), (203, 48));
}
