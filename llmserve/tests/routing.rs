//! A router before real engines: what it keeps together is computed once.

mod support;

use std::sync::Arc;

use llmserve::kv::PagedKv;
use llmserve::route::index::{PrefixIndex, Tier};
use llmserve::route::{KvAware, Replica, RoundRobin, Router, Strategy, TokenBlocks};
use llmserve::{Engine, Generate, IdentityRoot, Request, TokenId};
use support::{PageModel, Sizes, builder, drained};

const BLOCK: usize = 16;
const ENGINES: usize = 4;

fn root() -> IdentityRoot {
    IdentityRoot::new(1, "tokens", BLOCK)
}

/// Four engines that tell `index` what they hold.
fn engines(index: &PrefixIndex) -> Vec<Arc<Engine>> {
    let sizes = Sizes {
        block_size: BLOCK,
        ..Sizes::default()
    };
    let engine = |at: usize| {
        let feed = index.feed(&format!("engine-{at}"), Tier::Device);
        let kv = PagedKv::builder()
            .blocks(sizes.blocks)
            .block_size(BLOCK)
            .root(root())
            .events(true);
        let engine = builder(PageModel::hashing(), sizes)
            .kv(kv.build().unwrap())
            .on_block_events(move |events| feed.apply(events));
        Arc::new(engine.build().unwrap())
    };
    (0..ENGINES).map(engine).collect()
}

/// How many there are, which is no multiple of [`ENGINES`]: taking turns does not keep them together.
const CONVERSATIONS: usize = 9;
const TURNS: usize = 6;
/// New tokens of each turn's prompt.
const NEW: usize = 40;

/// Conversations, in turn; prompt tokens, and those of them that were cached.
fn converse(strategy: impl Strategy + 'static, index: &PrefixIndex) -> (usize, usize) {
    let engines = engines(index);
    let replicas = engines.iter().enumerate();
    let router = Router::builder()
        .replicas(replicas.map(|(at, engine)| Replica::new(format!("engine-{at}"), engine.clone())))
        .strategy(strategy)
        .build()
        .unwrap();
    let mut said: Vec<Vec<TokenId>> = vec![Vec::new(); CONVERSATIONS];
    let (mut prompts, mut cached) = (0, 0);
    for turn in 0..TURNS {
        for (number, said) in said.iter_mut().enumerate() {
            let own = |at: usize| ((number * 7 + turn * 3 + at * (number + 2)) % 60 + 2) as TokenId;
            said.extend((0..NEW).map(own));
            let request = Request::tokens(&said[..]).max_tokens(24).ignore_eos(true);
            let answer = router.generate(request).wait().unwrap();
            prompts += said.len();
            cached += answer.choices[0].usage.cached_tokens;
            said.extend_from_slice(answer.ids());
        }
    }
    engines.iter().for_each(|engine| drained(engine));
    (prompts, cached)
}

#[test]
fn what_a_router_finds_is_what_engines_need_not_compute() {
    let index = PrefixIndex::new();
    let blocks = TokenBlocks::new(root(), BLOCK);
    let aware = KvAware::new(index.clone(), blocks).seed(1);
    let (prompts, found) = converse(aware, &index);
    // All that was said before, but for blocks that are not full.
    let earlier = prompts - CONVERSATIONS * TURNS * NEW;
    assert!(
        found <= earlier && found + CONVERSATIONS * (TURNS - 1) * BLOCK >= earlier,
        "{found} of {earlier}"
    );
    // What each engine told is in the index, confirmed.
    assert!(index.stats().told > 0, "{:?}", index.stats());
    let (same, scattered) = converse(RoundRobin::new(), &PrefixIndex::new());
    assert_eq!(same, prompts);
    assert!(found > 2 * scattered, "{found}, {scattered}");
}
