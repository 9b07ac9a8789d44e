//! The block operations of `llmserve-kv` and the prefix index of `llmserve-route` beside those of
//! `kvbm-logical` and `dynamo-kv-router`, in one run, in nanoseconds a block.
//!
//! ```text
//! cd benches/peers && cargo run --release [-- --json]
//! ```
//!
//! Each operates on sequences of as many blocks, whose hashes are computed beforehand for all of
//! them. A lookup compares hashes, of 128 bits in `llmserve-kv` and of 64 in `dynamo-kv-router`;
//! when blocks are taken `llmserve-kv` compares tokens as well. What is compared here differs in
//! what it does: `kvbm-logical` is shared between threads behind locks and keeps metrics, and
//! `dynamo-kv-router` is an index of what workers hold, without blocks of its own. The rows of an
//! index compare that with the one of `llmserve-route`, over several workers.

mod index;

use std::time::Instant;

use dynamo_kv_router::RadixTree;
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, RouterEvent, compute_block_hash_for_seq,
    compute_seq_hash_for_block,
};
use kvbm_logical::manager::FrequencyTrackingCapacity;
use kvbm_logical::{BlockManager, BlockRegistry, SequenceHash};
use llmserve_core::{IdentityRoot, KvManager, PrefixScope, SequenceId};
use llmserve_kv::PagedKv;

const SEQUENCES: usize = 64;
const BLOCKS: usize = 64;
const BLOCK_SIZE: usize = 16;
const ROUNDS: usize = 40;

/// An operation's name, and the least nanoseconds a block of each crate; none where a crate has
/// no such operation.
type Row = (&'static str, [Option<f64>; 3]);

fn main() {
    let json = std::env::args().any(|arg| arg == "--json");
    let (mut ours, mut kvbm, mut router) = ([f64::MAX; 6], [f64::MAX; 4], [f64::MAX; 4]);
    let (mut our_index, mut router_index) = ([f64::MAX; 3], [f64::MAX; 3]);
    // In turns, so that what slows the machine for a while slows all of them.
    for _ in 0..ROUNDS {
        least(&mut ours, run_ours());
        least(&mut kvbm, run_kvbm());
        least(&mut router, run_router());
        least(&mut our_index, index::run_ours());
        least(&mut router_index, index::run_dynamo());
    }
    let rows: [Row; 6] = [
        ("allocate", [Some(ours[0]), Some(kvbm[0]), None]),
        (
            "allocate and make findable",
            [Some(ours[1]), Some(kvbm[0] + kvbm[1]), Some(router[0])],
        ),
        ("release", [Some(ours[2]), Some(kvbm[2]), Some(router[1])]),
        ("prefix lookup", [Some(ours[3]), None, Some(router[2])]),
        (
            "prefix lookup, half there",
            [Some(ours[4]), None, Some(router[3])],
        ),
        ("prefix lookup, taken", [Some(ours[5]), Some(kvbm[3]), None]),
    ];
    if !json {
        println!(
            "{SEQUENCES} sequences of {BLOCKS} blocks of {BLOCK_SIZE} tokens, ns a block, least of {ROUNDS}"
        );
        let heads = [
            "llmserve-kv",
            "kvbm-logical",
            "ratio",
            "dynamo-kv-router",
            "ratio",
        ];
        print!("{:<28}", "");
        heads.iter().for_each(|head| print!("{head:>18}"));
        println!();
    }
    for (name, [ours, kvbm, router]) in rows {
        let ratio = |other: Option<f64>| Some(other? / ours?);
        let figures = [
            ("llmserve_kv", ours),
            ("kvbm_logical", kvbm),
            ("kvbm_logical_over", ratio(kvbm)),
            ("dynamo_kv_router", router),
            ("dynamo_kv_router_over", ratio(router)),
        ];
        print_row(json, name, &figures);
    }
    if !json {
        println!(
            "{} sequences of {} blocks with two of {} workers each, ns a block",
            index::SEQUENCES,
            index::BLOCKS,
            index::WORKERS
        );
        let heads = ["llmserve-route", "dynamo-kv-router", "ratio"];
        print!("{:<28}", "");
        heads.iter().for_each(|head| print!("{head:>18}"));
        println!();
    }
    for (name, (ours, router)) in index::OPERATIONS
        .iter()
        .zip(our_index.iter().zip(&router_index))
    {
        let figures = [
            ("llmserve_route", Some(*ours)),
            ("dynamo_kv_router", Some(*router)),
            ("dynamo_kv_router_over", Some(router / ours)),
        ];
        print_row(json, name, &figures);
    }
}

fn print_row(json: bool, name: &str, figures: &[(&str, Option<f64>)]) {
    if json {
        let told = figures.iter().filter_map(|(key, value)| {
            let value = (*value)?;
            Some(format!("\"{key}\":{value:.3}"))
        });
        let told: Vec<_> = told.collect();
        println!("{{\"name\":\"{name}\",{}}}", told.join(","));
    } else {
        print!("{name:<28}");
        for (_, value) in figures {
            let told = value.map_or("-".to_owned(), |value| format!("{value:.2}"));
            print!("{told:>18}");
        }
        println!();
    }
}

fn least<const N: usize>(best: &mut [f64; N], new: [f64; N]) {
    for (best, new) in best.iter_mut().zip(new) {
        *best = best.min(new);
    }
}

/// Nanoseconds a block of one call for each sequence.
fn time(mut run: impl FnMut(usize)) -> f64 {
    let began = Instant::now();
    (0..SEQUENCES).for_each(&mut run);
    began.elapsed().as_nanos() as f64 / (SEQUENCES * BLOCKS) as f64
}

/// A prompt that shares nothing with others, one token longer than its blocks.
fn prompt(slot: usize) -> Vec<u32> {
    let mix = |at: usize| ((slot * 7919 + at) as u32).wrapping_mul(2_654_435_761);
    (0..=BLOCKS * BLOCK_SIZE).map(mix).collect()
}

/// The same, up to the middle.
fn prompt_half_there(slot: usize) -> Vec<u32> {
    let mut tokens = prompt(slot);
    tokens[BLOCKS / 2 * BLOCK_SIZE..].fill(slot as u32);
    tokens
}

fn run_ours() -> [f64; 6] {
    const TOKENS: usize = BLOCKS * BLOCK_SIZE;
    let id = |slot: usize| SequenceId::new(slot as u32, 0);
    let manager = |caching| {
        let builder = PagedKv::builder()
            .blocks(SEQUENCES * (BLOCKS + 1))
            .block_size(BLOCK_SIZE)
            .root(IdentityRoot::new(1, "peers", BLOCK_SIZE))
            .prefix_caching(caching);
        let mut kv = builder.build().expect("valid");
        for slot in 0..SEQUENCES {
            let opened = kv.open(id(slot), &prompt(slot), PrefixScope::default());
            opened.expect("a fresh id");
        }
        kv
    };
    let mut plain = manager(false);
    let allocate = time(|slot| {
        plain.allocate(id(slot), TOKENS).expect("room");
    });
    let mut kv = manager(true);
    let findable = time(|slot| {
        kv.allocate(id(slot), TOKENS).expect("room");
        kv.seal(id(slot), TOKENS).expect("allocated");
    });
    let release = time(|slot| kv.release(id(slot)).expect("open"));
    let lookup = time(|slot| assert_eq!(kv.prefix(id(slot)), TOKENS));
    let half = |slot: usize| id(SEQUENCES + slot);
    for slot in 0..SEQUENCES {
        let opened = kv.open(half(slot), &prompt_half_there(slot), PrefixScope::default());
        opened.expect("a fresh id");
    }
    let half = time(|slot| assert_eq!(kv.prefix(half(slot)), TOKENS / 2));
    let taken = time(|slot| {
        let hit = kv.allocate(id(slot), TOKENS + 1).expect("room");
        assert_eq!(hit, TOKENS);
    });
    [allocate, findable, release, lookup, half, taken]
}

/// The tier of the blocks.
#[derive(Clone)]
struct Device;

fn run_kvbm() -> [f64; 4] {
    let tracker = FrequencyTrackingCapacity::Medium.create_tracker();
    let registry = BlockRegistry::builder().frequency_tracker(tracker).build();
    let manager = BlockManager::<Device>::builder()
        .block_count(SEQUENCES * (BLOCKS + 1))
        .block_size(BLOCK_SIZE)
        .registry(registry)
        .with_lru_backend()
        .build()
        .expect("valid");
    let hashes: Vec<Vec<SequenceHash>> = (0..SEQUENCES).map(lineage).collect();
    let mut mutable = Vec::with_capacity(SEQUENCES);
    let allocate = time(|_| mutable.push(manager.allocate_blocks(BLOCKS).expect("room")));
    let mut mutable = mutable.into_iter();
    let mut held = Vec::with_capacity(SEQUENCES);
    let register = time(|slot| {
        let blocks = mutable.next().expect("one each").into_iter();
        let staged = blocks.zip(&hashes[slot]).map(|(block, hash)| {
            let staged = block.stage(*hash, BLOCK_SIZE);
            staged.ok().expect("the block size is right")
        });
        held.push(manager.register_blocks(staged.collect()));
    });
    let mut held = held.into_iter();
    let release = time(|_| drop(held.next()));
    let mut taken = Vec::with_capacity(SEQUENCES);
    let lookup = time(|slot| {
        let found = manager.match_blocks(&hashes[slot]);
        assert_eq!(found.len(), BLOCKS);
        taken.push(found);
    });
    [allocate, register, release, lookup]
}

/// The hashes of a prompt's blocks, each after the one before it.
fn lineage(slot: usize) -> Vec<SequenceHash> {
    let prompt = prompt(slot);
    let tokens = &prompt[..BLOCKS * BLOCK_SIZE];
    let local = compute_block_hash_for_seq(tokens, BLOCK_SIZE as u32, Default::default());
    let chained = compute_seq_hash_for_block(&local);
    let mut parent = None;
    let mut hashes = Vec::new();
    for (position, hash) in chained.into_iter().enumerate() {
        hashes.push(SequenceHash::new(hash, parent, position as u64));
        parent = Some(hash);
    }
    hashes
}

fn run_router() -> [f64; 4] {
    let hashes = |prompt: Vec<u32>| -> Vec<LocalBlockHash> {
        let tokens = &prompt[..BLOCKS * BLOCK_SIZE];
        compute_block_hash_for_seq(tokens, BLOCK_SIZE as u32, Default::default())
    };
    let local: Vec<_> = (0..SEQUENCES).map(|slot| hashes(prompt(slot))).collect();
    let event = |event_id, data| {
        let event = KvCacheEvent {
            event_id,
            data,
            dp_rank: 0,
        };
        Some(RouterEvent::new(1, event))
    };
    let chained = |slot: usize| {
        let hashes = compute_seq_hash_for_block(&local[slot]).into_iter();
        hashes.map(ExternalSequenceBlockHash).collect::<Vec<_>>()
    };
    let mut stored: Vec<_> = (0..SEQUENCES)
        .map(|slot| {
            let blocks = chained(slot).into_iter().zip(&local[slot]);
            let blocks = blocks.map(|(block_hash, tokens_hash)| KvCacheStoredBlockData {
                block_hash,
                tokens_hash: *tokens_hash,
                mm_extra_info: None,
            });
            let data = KvCacheStoreData {
                parent_hash: None,
                start_position: None,
                blocks: blocks.collect(),
            };
            event(slot as u64, KvCacheEventData::Stored(data))
        })
        .collect();
    let mut removed: Vec<_> = (0..SEQUENCES)
        .map(|slot| {
            let block_hashes = chained(slot).into_iter().rev().collect();
            let data = KvCacheEventData::Removed(KvCacheRemoveData { block_hashes });
            event((SEQUENCES + slot) as u64, data)
        })
        .collect();
    let mut queries: Vec<_> = local.iter().cloned().map(Some).collect();
    let mut tree = RadixTree::new();
    let store = time(|slot| {
        let event = stored[slot].take().expect("one each");
        tree.apply_event(event).expect("a new block");
    });
    let half = (0..SEQUENCES).map(|slot| Some(hashes(prompt_half_there(slot))));
    let mut half: Vec<_> = half.collect();
    let find = |query: &mut Option<Vec<LocalBlockHash>>, blocks: usize| {
        let query = query.take().expect("one each");
        let found = tree.find_matches(query, false);
        assert!(found.scores.values().all(|found| *found == blocks as u32));
        assert_eq!(found.scores.len(), 1);
    };
    let lookup = time(|slot| find(&mut queries[slot], BLOCKS));
    let half = time(|slot| find(&mut half[slot], BLOCKS / 2));
    let remove = time(|slot| {
        let event = removed[slot].take().expect("one each");
        tree.apply_event(event).expect("it is there");
    });
    [store, remove, lookup, half]
}
