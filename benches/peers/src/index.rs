//! Who has which prefix: the index of `llmserve-route` beside the radix tree of
//! `dynamo-kv-router`, on the same chains and workers.
//!
//! Every sequence begins with the same blocks and is with two workers; a search is for a sequence
//! with blocks after it that nobody has.

use std::time::Instant;

use dynamo_kv_router::RadixTree;
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, RouterEvent, compute_block_hash_for_seq,
    compute_seq_hash_for_block,
};
use llmserve_core::{BlockEvent, BlockIdentity, Extras, IdentityRoot};
use llmserve_route::Slot;
use llmserve_route::index::{PrefixIndex, Tier};

pub(crate) const WORKERS: usize = 16;
pub(crate) const SEQUENCES: usize = 256;
pub(crate) const BLOCKS: usize = 128;
pub(crate) const BLOCK_SIZE: usize = 16;
/// Blocks at the beginning of every sequence that are the same for all.
const SHARED: usize = 32;
/// Blocks of a search that nobody has.
const NEW: usize = 8;

/// What was measured.
pub(crate) const OPERATIONS: [&str; 3] = ["index: store", "index: find", "index: remove"];

/// The workers a sequence is with.
fn workers(sequence: usize) -> [usize; 2] {
    [sequence % WORKERS, (sequence * 7 + 3) % WORKERS]
}

/// The tokens of a sequence and of what a search has after it.
fn tokens(sequence: usize) -> Vec<u32> {
    let token = |at: usize| {
        let own = if at < SHARED * BLOCK_SIZE {
            0
        } else {
            sequence + 1
        };
        ((own * 7919 + at) as u32).wrapping_mul(2_654_435_761)
    };
    (0..(BLOCKS + NEW) * BLOCK_SIZE).map(token).collect()
}

/// Nanoseconds a block of one call for each sequence.
fn time(blocks: usize, mut run: impl FnMut(usize)) -> f64 {
    let began = Instant::now();
    (0..SEQUENCES).for_each(&mut run);
    began.elapsed().as_nanos() as f64 / (SEQUENCES * blocks) as f64
}

pub(crate) fn run_ours() -> [f64; 3] {
    let root = IdentityRoot::new(1, "peers", BLOCK_SIZE);
    let chain = |sequence: usize| {
        let mut chain: Vec<BlockIdentity> = Vec::new();
        for block in tokens(sequence).chunks_exact(BLOCK_SIZE) {
            chain.push(match chain.last() {
                Some(before) => before.next(block),
                None => root.first(&Extras::default(), block),
            });
        }
        chain
    };
    let chains: Vec<_> = (0..SEQUENCES).map(chain).collect();
    let events = |chain: &Vec<BlockIdentity>| {
        let stored = |identity: &BlockIdentity| BlockEvent::Stored {
            identity: *identity,
            parent: None,
            tokens: vec![0; BLOCK_SIZE],
        };
        chain[..BLOCKS].iter().map(stored).collect::<Vec<_>>()
    };
    let stored: Vec<_> = chains.iter().map(events).collect();
    let removed: Vec<Vec<_>> = chains
        .iter()
        .map(|chain| {
            let own = chain[SHARED..BLOCKS].iter().rev();
            own.map(|identity| BlockEvent::Removed {
                identity: *identity,
            })
            .collect()
        })
        .collect();
    let index = PrefixIndex::new();
    let feeds: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let name = worker.to_string();
            index.join(Slot::new(worker as u32, 0), &name);
            index.feed(&name, Tier::Device)
        })
        .collect();
    let store = time(2 * BLOCKS, |at| {
        for worker in workers(at) {
            feeds[worker].apply(&stored[at]);
        }
    });
    let find = time(BLOCKS + NEW, |at| {
        let found = index.find(&chains[at]);
        assert_eq!(found.len(), WORKERS);
        let [one, other] = workers(at).map(|worker| found[worker].1.device);
        assert_eq!((one, other), (BLOCKS, BLOCKS));
    });
    let remove = time(2 * (BLOCKS - SHARED), |at| {
        for worker in workers(at) {
            feeds[worker].apply(&removed[at]);
        }
    });
    [store, find, remove]
}

pub(crate) fn run_dynamo() -> [f64; 3] {
    let local: Vec<Vec<LocalBlockHash>> = (0..SEQUENCES)
        .map(|at| compute_block_hash_for_seq(&tokens(at), BLOCK_SIZE as u32, Default::default()))
        .collect();
    let chained = |at: usize| {
        let hashes = compute_seq_hash_for_block(&local[at]).into_iter();
        hashes.map(ExternalSequenceBlockHash).collect::<Vec<_>>()
    };
    let mut event_id = 0;
    let mut event = |worker: usize, data| {
        event_id += 1;
        let event = KvCacheEvent {
            event_id,
            data,
            dp_rank: 0,
        };
        Some(RouterEvent::new(worker as u64, event))
    };
    let mut stored: Vec<[Option<RouterEvent>; 2]> = (0..SEQUENCES)
        .map(|at| {
            workers(at).map(|worker| {
                let blocks = chained(at).into_iter().zip(&local[at]).take(BLOCKS);
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
                event(worker, KvCacheEventData::Stored(data))
            })
        })
        .collect();
    let mut removed: Vec<[Option<RouterEvent>; 2]> = (0..SEQUENCES)
        .map(|at| {
            workers(at).map(|worker| {
                let mut block_hashes = chained(at);
                block_hashes.truncate(BLOCKS);
                block_hashes.drain(..SHARED);
                block_hashes.reverse();
                let data = KvCacheEventData::Removed(KvCacheRemoveData { block_hashes });
                event(worker, data)
            })
        })
        .collect();
    let mut queries: Vec<_> = local.iter().cloned().map(Some).collect();
    let mut tree = RadixTree::new();
    let apply = |tree: &mut RadixTree, events: &mut [Option<RouterEvent>; 2]| {
        for event in events {
            let event = event.take().expect("one each");
            tree.apply_event(event).expect("in order");
        }
    };
    let store = time(2 * BLOCKS, |at| apply(&mut tree, &mut stored[at]));
    let find = time(BLOCKS + NEW, |at| {
        let query = queries[at].take().expect("one each");
        let found = tree.find_matches(query, false);
        assert_eq!(found.scores.len(), WORKERS);
        let all = found
            .scores
            .values()
            .filter(|blocks| **blocks == BLOCKS as u32);
        assert!(all.count() >= 1);
    });
    let remove = time(2 * (BLOCKS - SHARED), |at| {
        apply(&mut tree, &mut removed[at])
    });
    [store, find, remove]
}
