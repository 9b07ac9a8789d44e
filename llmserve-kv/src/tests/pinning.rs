//! What pins keep, and what they do not take from anybody.

use llmserve_core::{BlockId, Extras, KvError, KvManager, OutOfBlocks, Pinned, PrefixScope};

use super::check::snapshot;
use super::{id, kv};
use crate::PagedKv;

/// A prompt of so many blocks of four tokens, all of a family's alike.
fn prompt(family: u32, blocks: u32) -> Vec<u32> {
    (0..blocks * 4).map(|at| family * 1000 + at).collect()
}

fn nobodys() -> Extras {
    Extras::default()
}

/// Computes a prompt and lets go of it; the tokens that were cached.
fn pass(kv: &mut PagedKv, slot: u32, tokens: &[u32]) -> usize {
    let cached = kv.start(slot, tokens);
    kv.close(id(slot));
    cached
}

/// Ten prompts of so many blocks, one after the other.
fn flood(kv: &mut PagedKv, blocks: u32) {
    for family in 10..20 {
        pass(kv, 0, &prompt(family, blocks));
    }
}

fn levels(kv: &PagedKv) -> (usize, usize) {
    let stats = kv.stats();
    (stats.pinned_blocks, stats.pinned_cached_blocks)
}

#[test]
fn what_is_pinned_is_there_after_a_flood_and_what_is_not_is_gone() {
    let mut kv = kv(8, 4);
    let (kept, not) = (prompt(1, 3), prompt(2, 3));
    pass(&mut kv, 0, &kept);
    pass(&mut kv, 0, &not);
    let pinned = Pinned {
        blocks: 3,
        cached: 3,
    };
    assert_eq!(kv.pin(&kept, &nobodys()), Ok(pinned));
    for family in 10..30 {
        pass(&mut kv, 0, &prompt(family, 4));
        assert_eq!(kv.available(), 8);
    }
    assert_eq!(kv.cached_blocks(&kept, &nobodys()), 3);
    assert_eq!(kv.cached_blocks(&not, &nobodys()), 0);
    assert_eq!(pass(&mut kv, 0, &[&kept[..], &[7]].concat()), 12);
    assert_eq!(levels(&kv), (3, 3));

    kv.unpin(&kept, &nobodys());
    assert_eq!(levels(&kv), (0, 0));
    // The latest used of the ordinary: not the next to go, but gone in time.
    pass(&mut kv, 0, &prompt(30, 4));
    assert_eq!(kv.cached_blocks(&kept, &nobodys()), 3);
    pass(&mut kv, 0, &prompt(31, 2));
    assert_eq!(kv.cached_blocks(&kept, &nobodys()), 2);
}

#[test]
fn a_pin_waits_for_what_is_computed_later_and_again_after_a_reset() {
    let mut kv = kv(8, 4);
    let kept = prompt(1, 3);
    let pinned = Pinned {
        blocks: 3,
        cached: 0,
    };
    assert_eq!(
        kv.pin(&[&kept[..], &[9, 9]].concat(), &nobodys()),
        Ok(pinned)
    );
    assert_eq!(levels(&kv), (3, 0));
    for round in 0..2 {
        pass(&mut kv, 0, &kept);
        assert_eq!(levels(&kv), (3, 3));
        flood(&mut kv, 5);
        assert_eq!(kv.cached_blocks(&kept, &nobodys()), 3, "round {round}");
        kv.reset().expect("idle");
        assert_eq!(levels(&kv), (3, 0));
    }
}

#[test]
fn whoever_needs_pinned_blocks_gets_them_tail_first() {
    let mut kv = PagedKv::builder()
        .blocks(6)
        .block_size(4)
        .root(llmserve_core::IdentityRoot::new(1, "f32", 4))
        .max_pinned_blocks(6)
        .build()
        .expect("valid settings");
    let kept = prompt(1, 4);
    pass(&mut kv, 0, &kept);
    kv.pin(&kept, &nobodys()).expect("allowed");
    assert_eq!(kv.available(), 6);
    kv.start(0, &prompt(2, 3));
    assert_eq!(kv.cached_blocks(&kept, &nobodys()), 3);
    assert_eq!(levels(&kv), (4, 3));
    kv.start(1, &prompt(3, 3));
    assert_eq!(levels(&kv), (4, 0));
    kv.open(id(2), &[1], PrefixScope::default()).expect("fresh");
    let out = OutOfBlocks {
        needed: 1,
        available: 0,
    };
    assert_eq!(kv.allocate(id(2), 1), Err(KvError::OutOfBlocks(out)));
}

#[test]
fn a_head_that_was_pinned_before_outlasts_a_tail_pinned_after_it() {
    let mut kv = kv(8, 4);
    let (head, whole) = (prompt(1, 1), prompt(1, 3));
    pass(&mut kv, 0, &whole);
    kv.pin(&head, &nobodys()).expect("allowed");
    kv.pin(&whole, &nobodys()).expect("allowed");
    kv.start(0, &prompt(2, 6));
    assert_eq!(kv.cached_blocks(&whole, &nobodys()), 2);
    kv.close(id(0));
    // Every pin has its own unpin.
    kv.unpin(&whole, &nobodys());
    assert_eq!(levels(&kv), (1, 1));
    kv.unpin(&head, &nobodys());
    assert_eq!(levels(&kv), (0, 0));
}

#[test]
fn more_than_may_be_pinned_is_refused_and_changes_nothing() {
    let mut kv = kv(8, 4);
    kv.pin(&prompt(1, 3), &nobodys()).expect("allowed");
    let before = snapshot(&kv);
    let error = kv.pin(&prompt(2, 2), &nobodys()).expect_err("too many");
    let expected = KvError::TooManyPinned {
        pinned: 3,
        wanted: 2,
        limit: 4,
    };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("raise max_pinned_blocks()"));
    assert_eq!(snapshot(&kv), before);
    // What is pinned already takes no more room.
    let pinned = Pinned {
        blocks: 4,
        cached: 0,
    };
    assert_eq!(kv.pin(&prompt(1, 4), &nobodys()), Ok(pinned));
}

#[test]
fn one_tenants_pin_keeps_nothing_of_anothers() {
    let mut kv = kv(8, 4);
    let scope = |tenant: &str| PrefixScope {
        extras: Extras::default().tenant(tenant),
        reuse: true,
    };
    let tokens = prompt(1, 2);
    for tenant in ["a", "b"] {
        kv.start_scoped(0, &tokens, scope(tenant));
        kv.close(id(0));
    }
    kv.pin(&tokens, &scope("a").extras).expect("allowed");
    flood(&mut kv, 5);
    assert_eq!(kv.cached_blocks(&tokens, &scope("a").extras), 2);
    assert_eq!(kv.cached_blocks(&tokens, &scope("b").extras), 0);
}

#[test]
fn of_twins_one_is_kept_and_when_it_goes_another() {
    let mut kv = kv(8, 4);
    let tokens = prompt(1, 1);
    // Neither hits: all of a prompt is never a hit.
    kv.start(0, &tokens);
    kv.start(1, &tokens);
    kv.pin(&tokens, &nobodys()).expect("allowed");
    assert_eq!(levels(&kv), (1, 1));
    let kept = |kv: &PagedKv| {
        let kept = (0..8).find(|at| kv.pool.block(BlockId(*at)).is_kept());
        kept.expect("one of them")
    };
    let first = kept(&kv);
    let holder = (0..2).find(|slot| kv.blocks_of(*slot) == [first]);
    let holder = holder.expect("held");
    // Its holder writes to it anew.
    kv.trim(id(holder), 2).expect("open");
    kv.append(id(holder), &[5]).expect("open");
    kv.allocate(id(holder), 3).expect("room");
    assert_ne!(kept(&kv), first);
    kv.close(id(0));
    kv.close(id(1));
    assert_eq!(kv.pool.idle_kept(), [kept(&kv)]);
    assert_eq!(levels(&kv), (1, 1));
}

#[test]
fn what_is_computed_anew_is_kept_in_the_place_of_what_nothing_leads_to() {
    let mut kv = kv(8, 4);
    let tokens = prompt(1, 2);
    kv.start(0, &tokens);
    kv.pin(&tokens, &nobodys()).expect("allowed");
    // The head is written anew, and its tail, given back before, is out of reach.
    kv.trim(id(0), 2).expect("open");
    kv.append(id(0), &[5]).expect("open");
    kv.allocate(id(0), 3).expect("room");
    kv.close(id(0));
    assert_eq!(levels(&kv), (2, 1));
    assert_eq!(kv.cached_blocks(&tokens, &nobodys()), 0);
    let left = kv.pool.idle_kept();
    pass(&mut kv, 1, &tokens);
    assert_eq!(kv.cached_blocks(&tokens, &nobodys()), 2);
    assert_eq!(levels(&kv), (2, 2));
    assert!(!kv.pool.idle_kept().contains(&left[0]));
    flood(&mut kv, 6);
    assert_eq!(kv.cached_blocks(&tokens, &nobodys()), 2);
}

#[test]
fn a_failed_step_leaves_a_pin_waiting() {
    let mut kv = kv(8, 4);
    let tokens = prompt(1, 2);
    kv.pin(&tokens, &nobodys()).expect("allowed");
    kv.open(id(0), &tokens, PrefixScope::default())
        .expect("fresh");
    kv.allocate(id(0), 8).expect("room");
    assert_eq!(levels(&kv), (2, 0));
    assert_eq!(kv.cached_blocks(&tokens, &nobodys()), 0);
    kv.revoke(id(0)).expect("open");
    kv.close(id(0));
    assert_eq!(levels(&kv), (2, 0));
    pass(&mut kv, 1, &tokens);
    assert_eq!(levels(&kv), (2, 2));
}

#[test]
fn without_prefix_caching_there_is_nothing_to_pin() {
    let kv = PagedKv::builder()
        .blocks(4)
        .prefix_caching(false)
        .max_pinned_blocks(0);
    let mut kv = kv.build().expect("valid settings");
    assert_eq!(kv.pin(&[1; 64], &nobodys()), Ok(Pinned::default()));
    kv.unpin(&[1; 64], &nobodys());
    assert_eq!(levels(&kv), (0, 0));
}
