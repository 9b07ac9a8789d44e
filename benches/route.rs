//! What a routing decision costs: choosing one of many replicas and counting the request there.
//!
//! Prompts have 4,000 tokens, and what a strategy wants to know of them (keys, identities of
//! blocks) is given, as it is computed before the router's lock. Replicas do nothing, and have a
//! few requests each. Every decision is timed by itself, the clock's own time included; rates are
//! of decisions and ends together.

use std::collections::VecDeque;
use std::error::Error;
use std::time::Instant;

use clap::Parser;
use llmserve::route::index::{PrefixIndex, Tier};
use llmserve::route::{
    Affinity, Assigned, BestQuality, BoundedHash, Cheapest, KvAware, LatencyAware, LeastLoaded,
    LeastTokens, PowerOfTwo, Prepared, PromptLength, Random, Replica, RoundRobin, Router, Strategy,
    TextBlocks, TokenBlocks, Weighted,
};
use llmserve_benches::{Common, Report};
use llmserve_core::{
    BlockEvent, BlockIdentity, EventStream, Extras, Generate, IdentityRoot, Request, Routing,
};

/// Routing decisions.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Replicas; one row of the report each.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 256])]
    replicas: Vec<usize>,
    /// Decisions of each measurement.
    #[arg(long, default_value_t = 200_000)]
    decisions: usize,
    /// Only strategies whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
}

/// Tokens of a prompt.
const PROMPT: usize = 4_000;

/// Tokens of a block.
const BLOCK: usize = 16;

/// Conversations that prompts belong to.
const CONVERSATIONS: usize = 2_000;

/// Blocks at the beginning of every prompt that are the same for all.
const SHARED: usize = 50;

/// Makes one prompt's blocks another's.
const SALT: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// Threads that decide at once in the last column.
const THREADS: usize = 2;

/// Nobody asks it anything.
struct Idle;

impl Generate for Idle {
    fn generate(&self, _request: Request) -> EventStream {
        EventStream::ready([])
    }
}

/// A request and what its strategy wants to know of it.
type Asked = (Request, Prepared);

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let decisions = if args.common.quick {
        args.decisions / 10
    } else {
        args.decisions
    };
    let clock = clock_ns();
    let title = format!("a decision, of {decisions} ({clock:.0} ns of them the clock's)");
    let mut report = Report::new(&title, args.common.json);
    let chains: Vec<_> = (0..CONVERSATIONS).map(chain).collect();
    for name in STRATEGIES.iter().filter(|name| name.contains(&args.only)) {
        for &replicas in &args.replicas {
            let router = router(name, replicas, &chains)?;
            let asked = requests(name, &chains);
            let new = name.ends_with("new prompts");
            let mut times = one_by_one(&router, &asked, decisions, 4 * replicas, new)?;
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            let rate = together(&router, &asked, decisions);
            let figures = [
                ("replicas", replicas.into()),
                ("p50_ns", at(0.5).into()),
                ("p99_ns", at(0.99).into()),
                ("two_threads_per_s", (rate.round() as u64).into()),
            ];
            report.row(name, &figures);
            if router.stats().outstanding() > 0 {
                return Err("a count was not given back".into());
            }
        }
    }
    Ok(())
}

const STRATEGIES: [&str; 15] = [
    "random",
    "round-robin",
    "weighted",
    "least-loaded",
    "least-tokens",
    "power-of-two",
    "latency-aware",
    "prompt-length",
    "affinity",
    "bounded-hash",
    "cheapest",
    "best-quality",
    "kv-aware, fed",
    "kv-aware, fed, new prompts",
    "kv-aware, approximate",
];

fn strategy(name: &str, index: &PrefixIndex) -> Box<dyn Strategy> {
    let root = IdentityRoot::new(1, "bench", BLOCK);
    match name {
        "random" => Box::new(Random::seeded(1)),
        "round-robin" => Box::new(RoundRobin::new()),
        "weighted" => Box::new(Weighted::new()),
        "least-loaded" => Box::new(LeastLoaded::new()),
        "least-tokens" => Box::new(LeastTokens::new()),
        "power-of-two" => Box::new(PowerOfTwo::seeded(1)),
        "latency-aware" => Box::new(LatencyAware::new()),
        "prompt-length" => Box::new(PromptLength::default()),
        "affinity" => Box::new(Affinity::new()),
        "bounded-hash" => Box::new(BoundedHash::new()),
        "cheapest" => Box::new(Cheapest::new()),
        "best-quality" => Box::new(BestQuality::new()),
        "kv-aware, approximate" => {
            Box::new(KvAware::new(index.clone(), TextBlocks::default()).seed(1))
        }
        _ => Box::new(KvAware::new(index.clone(), TokenBlocks::new(root, BLOCK)).seed(1)),
    }
}

/// A router over idle replicas; where there is an index, each conversation is with one of them,
/// but for its last turn, and the beginning of all is with everybody.
fn router(
    name: &str,
    replicas: usize,
    chains: &[Vec<BlockIdentity>],
) -> Result<Router, Box<dyn Error>> {
    let index = match name {
        "kv-aware, approximate" => PrefixIndex::new(),
        _ => PrefixIndex::new().assume_every(16),
    };
    let members = (0..replicas).map(|at| {
        let replica = Replica::new(format!("replica-{at}"), Idle);
        replica
            .weight(1 + at as u32 % 3)
            .cost((at % 4) as f64)
            .quality((at % 4) as f32)
            .region(if at % 2 == 0 { "eu" } else { "us" })
    });
    let router = Router::builder()
        .replicas(members)
        .strategy(strategy(name, &index))
        .build()?;
    if name.starts_with("kv-aware, fed") {
        let stored = |identity: &BlockIdentity| BlockEvent::Stored {
            identity: *identity,
            parent: None,
            tokens: Vec::new(),
        };
        for at in 0..replicas {
            let feed = index.feed(&format!("replica-{at}"), Tier::Device);
            let mine = chains.iter().skip(at).step_by(replicas);
            let mut events: Vec<_> = chains[0][..SHARED].iter().map(stored).collect();
            events
                .extend(mine.flat_map(|chain| chain[SHARED..chain.len() - 10].iter().map(stored)));
            feed.apply(&events);
        }
    }
    Ok(router)
}

/// The identities of a conversation's blocks.
fn chain(conversation: usize) -> Vec<BlockIdentity> {
    let token = |at: usize| {
        let own = if at < SHARED * BLOCK {
            0
        } else {
            conversation + 1
        };
        ((own * 7_919 + at) as u32).wrapping_mul(2_654_435_761)
    };
    let tokens: Vec<_> = (0..PROMPT).map(token).collect();
    let root = IdentityRoot::new(1, "bench", BLOCK);
    let mut chain: Vec<BlockIdentity> = Vec::new();
    for block in tokens.chunks_exact(BLOCK) {
        chain.push(match chain.last() {
            Some(before) => before.next(block),
            None => root.first(&Extras::default(), block),
        });
    }
    chain
}

/// What is asked for, over and over.
fn requests(name: &str, chains: &[Vec<BlockIdentity>]) -> Vec<Asked> {
    let asked = chains.iter().enumerate().map(|(at, chain)| {
        let session = format!("session-{at}");
        let request = Request::tokens(vec![1; PROMPT])
            .max_tokens(128)
            .routing(Routing::default().session(session));
        let mut prepared = Prepared::default();
        if name.starts_with("kv-aware") {
            // Chunks of text are four times as long.
            let every = if name.ends_with("approximate") { 4 } else { 1 };
            prepared.blocks = chain.iter().step_by(every).copied().collect();
        }
        if matches!(name, "affinity" | "bounded-hash") {
            prepared.key = llmserve::route::KeyBy::Session.key(&request);
        }
        (request, prepared)
    });
    asked.collect()
}

/// Nanoseconds of each of `decisions`, while `held` requests are outstanding. If `new`, nobody has
/// anything of their prompts but the beginning.
fn one_by_one(
    router: &Router,
    asked: &[Asked],
    decisions: usize,
    held: usize,
    new: bool,
) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut outstanding: VecDeque<Assigned> = VecDeque::new();
    let mut times = Vec::with_capacity(decisions);
    let mut seen = 1usize;
    for turn in 0..decisions + held {
        seen = seen.wrapping_mul(48_271) % 2_147_483_647;
        let (request, prepared) = &asked[seen % asked.len()];
        let mut own = Prepared::default();
        let prepared = if new {
            own.clone_from(prepared);
            for block in &mut own.blocks[SHARED..] {
                let salted = block.as_u128() ^ (turn as u128 + 1).wrapping_mul(SALT);
                *block = BlockIdentity::from_u128(salted);
            }
            &own
        } else {
            prepared
        };
        let began = Instant::now();
        let assigned = router.assign(request, prepared, &[]);
        let took = began.elapsed().as_nanos() as u64;
        outstanding.push_back(assigned?);
        if turn >= held {
            times.push(took);
            if let Some(mut oldest) = outstanding.pop_front() {
                oldest.answering();
            }
        }
    }
    Ok(times)
}

/// Decisions a second of all threads.
fn together(router: &Router, asked: &[Asked], decisions: usize) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for turn in 0..decisions {
                    let (request, prepared) = &asked[(turn * THREADS + thread) % asked.len()];
                    drop(router.assign(request, prepared, &[]));
                }
            });
        }
    });
    (THREADS * decisions) as f64 / began.elapsed().as_secs_f64()
}

/// What timing nothing takes.
fn clock_ns() -> f64 {
    const TIMES: u32 = 100_000;
    let began = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(Instant::now().elapsed());
    }
    began.elapsed().as_nanos() as f64 / f64::from(TIMES)
}
