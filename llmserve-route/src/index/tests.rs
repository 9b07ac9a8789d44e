//! The index against plain sets.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::random::Rng;

fn block(value: u128) -> BlockIdentity {
    BlockIdentity::from_u128(value)
}

/// A chain of `len` blocks that parts from its trunk at `part`.
fn chain(trunk: u128, part: usize, branch: u128, len: usize) -> Vec<BlockIdentity> {
    let tag = |at: usize| {
        if at < part {
            0
        } else {
            (part as u128 + 1) << 8 | branch
        }
    };
    (0..len)
        .map(|at| block(trunk << 96 | tag(at) << 32 | at as u128))
        .collect()
}

fn stored(identity: BlockIdentity) -> BlockEvent {
    BlockEvent::Stored {
        identity,
        parent: None,
        tokens: Vec::new(),
    }
}

fn removed(identity: BlockIdentity) -> BlockEvent {
    BlockEvent::Removed { identity }
}

fn slot(index: usize) -> Slot {
    Slot::new(index as u32, 0)
}

fn depths(index: &PrefixIndex, chain: &[BlockIdentity]) -> Vec<(usize, usize)> {
    let found = index.find(chain).into_iter();
    found
        .map(|(slot, has)| (slot.index(), has.device))
        .collect()
}

/// Leading blocks of `chain` in `set`.
fn naive(set: &BTreeSet<BlockIdentity>, chain: &[BlockIdentity]) -> usize {
    chain.iter().take_while(|block| set.contains(block)).count()
}

#[test]
fn finds_what_walking_finds() {
    const TIERS: [Tier; 3] = [Tier::Device, Tier::Host, Tier::Disk];
    let rng = Rng::seeded(21);
    for replicas in [1, 3, 9, 40, 300] {
        let index = PrefixIndex::new();
        let feeds: Vec<Vec<Feed>> = (0..replicas)
            .map(|at| {
                index.join(slot(at), &format!("r{at}"));
                TIERS.map(|tier| index.feed(&format!("r{at}"), tier)).into()
            })
            .collect();
        let mut has = vec![[(); 3].map(|()| BTreeSet::new()); replicas];
        for _ in 0..600 {
            let (at, tier) = (rng.below(replicas), rng.below(5).saturating_sub(2));
            let chain = chain(
                rng.below(2) as u128,
                rng.below(12),
                rng.below(3) as u128,
                24,
            );
            let set = &mut has[at][tier];
            let held = naive(set, &chain);
            // Grows at the end, shrinks at the end.
            if rng.below(3) > 0 {
                let to = held + rng.below(chain.len() - held + 1);
                let events: Vec<_> = chain[held..to].iter().map(|b| stored(*b)).collect();
                feeds[at][tier].apply(&events);
                set.extend(&chain[held..to]);
            } else if rng.below(20) == 0 {
                feeds[at][tier].apply(&[BlockEvent::Cleared]);
                set.clear();
            } else {
                // Whatever continues a removed block must go with it.
                let from = rng.below(held + 1);
                let of = |b: &BlockIdentity| (b.as_u128() >> 96, b.as_u128() as u32 as usize);
                let goes = |b: &BlockIdentity| of(b).0 == of(&chain[0]).0 && of(b).1 >= from;
                let gone: Vec<_> = set.iter().copied().filter(goes).collect();
                let events: Vec<_> = gone.iter().map(|b| removed(*b)).collect();
                feeds[at][tier].apply(&events);
                set.retain(|b| !gone.contains(b));
            }
            let ask = self::chain(
                rng.below(2) as u128,
                rng.below(12),
                rng.below(3) as u128,
                20,
            );
            let found: BTreeMap<_, _> = index.find(&ask).into_iter().collect();
            for (at, [device, host, disk]) in has.iter().enumerate() {
                let host: BTreeSet<_> = host.union(device).copied().collect();
                let disk: BTreeSet<_> = disk.union(&host).copied().collect();
                let expected = Overlap {
                    device: naive(device, &ask),
                    host: naive(&host, &ask),
                    disk: naive(&disk, &ask),
                };
                let found = found.get(&slot(at)).copied().unwrap_or_default();
                // A union of tiers may have gaps that its parts have not.
                assert_eq!(found.device, expected.device);
                assert!(found.host >= expected.device && found.disk >= found.host);
            }
        }
        let device: usize = has.iter().flatten().map(BTreeSet::len).sum();
        assert_eq!(index.stats().told, device);
    }
}

#[test]
fn tiers_go_on_where_the_device_ends() {
    let index = PrefixIndex::new();
    index.join(slot(0), "a");
    let chain = chain(1, 9, 0, 9);
    let all: Vec<_> = chain.iter().map(|b| stored(*b)).collect();
    index.feed("a", Tier::Device).apply(&all[..2]);
    index.feed("a", Tier::Host).apply(&all[..5]);
    index.feed("a", Tier::Disk).apply(&all[..8]);
    let has = Overlap {
        device: 2,
        host: 5,
        disk: 8,
    };
    assert_eq!(index.find(&chain), [(slot(0), has)]);
    index.feed("a", Tier::Device).apply(&[BlockEvent::Cleared]);
    let has = Overlap { device: 0, ..has };
    assert_eq!(index.find(&chain), [(slot(0), has)]);
    assert_eq!(index.stats().told, 13);
}

#[test]
fn what_is_gone_is_not_found_and_its_memory_comes_back() {
    let index = PrefixIndex::new();
    let chain = chain(1, 50, 0, 5_000);
    let all: Vec<_> = chain.iter().map(|b| stored(*b)).collect();
    let feed = index.feed("a", Tier::Device);
    // Told before it joins.
    feed.apply(&all);
    assert_eq!(depths(&index, &chain), []);
    index.join(slot(0), "a");
    assert_eq!(depths(&index, &chain), [(0, 5_000)]);
    index.leave(slot(0));
    assert_eq!(depths(&index, &chain), []);
    // Late news of one that is gone is no news.
    feed.apply(&all[..3]);
    let reborn = Slot::new(0, 1);
    index.join(reborn, "b");
    assert_eq!(index.find(&chain), []);
    index.feed("b", Tier::Device).apply(&all[..7]);
    assert_eq!(depths(&index, &chain), [(0, 7)]);
    for _ in 0..SWEEPS {
        index.assume(reborn, &[], Time::ZERO);
    }
    let stats = index.stats();
    assert_eq!((stats.blocks, stats.told), (7, 7));
    // The same by an engine's own word.
    index
        .feed("b", Tier::Device)
        .apply(&[BlockEvent::Cleared, all[0].clone()]);
    assert_eq!(depths(&index, &chain), [(0, 1)]);
    for _ in 0..SWEEPS {
        index.assume(reborn, &[], Time::ZERO);
    }
    assert_eq!(index.stats().blocks, 1);
}

/// Calls that sweep everything.
const SWEEPS: usize = 2 * shards::SHARDS;

#[test]
fn more_come_and_go_than_there_are_seats() {
    let index = PrefixIndex::new();
    let chain = chain(1, 9, 0, 9);
    for round in 0..10_000u32 {
        let slot = Slot::new(round % 3, round / 3);
        index.join(slot, &format!("r{round}"));
        index.assume(slot, &chain, Time::ZERO);
        assert!(
            index
                .find(&chain)
                .iter()
                .any(|(found, has)| *found == slot && has.device == 9)
        );
        if round >= 2 {
            index.leave(Slot::new((round - 2) % 3, (round - 2) / 3));
        }
    }
    for _ in 0..SWEEPS {
        index.assume(Slot::new(0, 0), &[], Time::ZERO);
    }
    assert_eq!(index.find(&chain).len(), 2);
    assert_eq!(index.stats().assumed, 18);
}

#[test]
fn assumptions_are_confirmed_refuted_forgotten_and_expire() {
    let seconds = Time::from_secs;
    let index = PrefixIndex::new().expire_after(seconds(64)).max_assumed(6);
    index.join(slot(0), "a");
    index.join(slot(1), "b");
    let one = chain(1, 9, 0, 4);
    let two = chain(2, 9, 0, 4);
    index.assume(slot(0), &one, seconds(0));
    assert_eq!(depths(&index, &one), [(0, 4)]);
    // Confirmed, and then evicted.
    let feed = index.feed("a", Tier::Device);
    feed.apply(&[stored(one[0]), stored(one[1])]);
    let stats = index.stats();
    assert_eq!((stats.told, stats.assumed), (2, 2));
    assert_eq!(depths(&index, &one), [(0, 4)]);
    feed.apply(&[removed(one[3]), removed(one[1])]);
    assert_eq!(depths(&index, &one), [(0, 1)]);
    assert_eq!(index.stats().assumed, 1);
    // What is there already is not assumed as well.
    index.assume(slot(0), &one[..1], seconds(1));
    assert_eq!(index.stats().assumed, 1);
    // The oldest goes when there is no room, the tail of a chain before its head.
    index.assume(slot(1), &two, seconds(2));
    index.assume(slot(1), &one, seconds(3));
    assert_eq!(depths(&index, &two), [(1, 2)]);
    assert_eq!(depths(&index, &one), [(0, 1), (1, 4)]);
    // Time goes by; what is renewed stays.
    index.assume(slot(1), &two[..1], seconds(60));
    index.find_each(&one, Some(seconds(70)), |_, _| ());
    assert_eq!(depths(&index, &one), [(0, 1)]);
    assert_eq!(depths(&index, &two), [(1, 1)]);
    let stats = index.stats();
    assert_eq!((stats.assumed, stats.told, stats.expired), (1, 1, 6));
}

#[test]
fn marks_are_fewer_and_find_what_they_mark() {
    let index = PrefixIndex::new().assume_every(8);
    index.join(slot(0), "a");
    let long = chain(1, 30, 0, 20);
    index.assume(slot(0), &long, Time::ZERO);
    assert_eq!(index.stats().assumed, 3);
    // The same prompt whole, a longer one up to a mark, one that parts up to the mark before.
    assert_eq!(depths(&index, &long), [(0, 20)]);
    assert_eq!(depths(&index, &chain(1, 30, 0, 30)), [(0, 16)]);
    assert_eq!(depths(&index, &chain(1, 12, 1, 30)), [(0, 8)]);
    assert_eq!(depths(&index, &chain(1, 5, 1, 30)), []);
    // Told blocks in front of assumed ones.
    let told: Vec<_> = long[..10].iter().map(|b| stored(*b)).collect();
    index.feed("a", Tier::Device).apply(&told);
    assert_eq!(depths(&index, &chain(1, 12, 1, 30)), [(0, 10)]);
    assert_eq!(depths(&index, &long), [(0, 20)]);
}

#[test]
fn there_is_an_end_to_memory() {
    let index = PrefixIndex::new().max_blocks(10);
    index.join(slot(0), "a");
    index.join(slot(1), "b");
    let chain = chain(1, 40, 0, 30);
    let all: Vec<_> = chain.iter().map(|b| stored(*b)).collect();
    index.feed("a", Tier::Device).apply(&all);
    index.assume(slot(1), &chain[..20], Time::ZERO);
    let stats = index.stats();
    assert_eq!((stats.blocks, stats.told, stats.assumed), (10, 10, 10));
    assert_eq!(stats.dropped, 30);
    assert_eq!(depths(&index, &chain), [(0, 10), (1, 10)]);
}
