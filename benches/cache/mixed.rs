//! A day's mixture through the whole stack: what each level answers, and what that saves.
//!
//! Questions that come again word for word (Zipf), the same in other words, one long template with
//! something new in its place, and questions that come once. The levels are switched on one after
//! another, each run with the same requests in the same order.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use llmserve::cache::prompt::PromptLayer;
use llmserve::cache::semantic::SemanticIndex;
use llmserve::cache::{CacheLayer, Policy, Semantic, Source};
use llmserve::embed::{EncoderOptions, HashedNgrams, SentenceEncoder};
use llmserve::prelude::*;
use llmserve::{Embedder, Message, TokenId};
use llmserve_benches::{Report, Workload};
use serde_json::Value;

/// Shares of the kinds, in percent; the rest comes once.
const REPEATED: usize = 40;
const REWORDED: usize = 25;
const TEMPLATE: usize = 20;

const CLIENTS: usize = 4;

#[derive(Clone)]
struct Ask {
    request: Request,
    /// Which question of the published pairs it is, if it is one.
    question: Option<usize>,
}

/// What is switched on.
#[derive(Clone)]
struct Level {
    name: &'static str,
    /// The engine's prefix blocks.
    blocks: bool,
    /// Tokens of parts that recur, and prefixes that many share.
    prompts: bool,
    exact: bool,
    meaning: Option<Arc<dyn Embedder>>,
}

/// What one run came to.
#[derive(Default)]
struct Seen {
    latency: Vec<Duration>,
    exact: usize,
    joined: usize,
    semantic: usize,
    /// Answers by meaning that were another question's.
    wrong: usize,
    cached_tokens: usize,
    prompt_tokens: usize,
}

pub(crate) fn run(
    report: &mut Report,
    quick: bool,
    minilm: Option<&Path>,
    model: &Path,
    count: usize,
) -> Result<(), Box<dyn Error>> {
    let count = if quick { 60 } else { count };
    let asks = asks(count)?;
    let hashed: Arc<dyn Embedder> = Arc::new(HashedNgrams::default());
    let nothing = Level {
        name: "nothing",
        blocks: false,
        prompts: false,
        exact: false,
        meaning: None,
    };
    let blocks = Level {
        name: "prefix blocks",
        blocks: true,
        ..nothing.clone()
    };
    let prompts = Level {
        name: "+ prompts",
        prompts: true,
        ..blocks.clone()
    };
    let exact = Level {
        name: "+ exact, single flight",
        exact: true,
        ..prompts.clone()
    };
    let meaning = |name, embedder| Level {
        name,
        meaning: Some(embedder),
        ..exact.clone()
    };
    let mut levels = vec![nothing, blocks, prompts, exact.clone()];
    levels.push(meaning("+ semantic, hashed", hashed));
    if let Some(folder) = minilm {
        let encoder = SentenceEncoder::open(folder, &EncoderOptions::default())?;
        levels.push(meaning("+ semantic, MiniLM", Arc::new(encoder)));
    }
    let mut without = None;
    for level in levels {
        let mut serve = llmserve::serve(model).prefix_caching(level.blocks);
        if !level.prompts {
            serve = serve.token_cache(0);
        }
        let engine = serve.build()?;
        let mut prompts = PromptLayer::builder(engine.clone());
        if level.prompts {
            prompts = prompts.keeper(engine);
        }
        let prompts = prompts.build()?;
        let exact = level.exact;
        let mut layer = CacheLayer::builder(prompts.clone())
            // The small model seldom ends by itself.
            .policy(Policy::default().truncated(true).only(move |_| exact));
        if let Some(embedder) = level.meaning {
            let index = SemanticIndex::builder(embedder).build()?;
            layer = layer.semantic(Semantic::new(index));
        }
        let mut seen = play(&layer.build()?, &asks)?;
        seen.latency.sort();
        let mean = seen.latency.iter().sum::<Duration>().as_secs_f64() / count as f64;
        let p95 = seen.latency[count * 95 / 100].as_secs_f64();
        let (first_mean, first_p95) = *without.get_or_insert((mean, p95));
        let share = |part: usize| part as f64 / count as f64;
        let runs = prompts.stats();
        report.row(
            level.name,
            &[
                ("requests", count.into()),
                ("exact", share(seen.exact).into()),
                ("joined", share(seen.joined).into()),
                ("semantic", share(seen.semantic).into()),
                ("wrong", share(seen.wrong).into()),
                (
                    "kept_prefix",
                    (runs.hits as f64 / runs.prompts.max(1) as f64).into(),
                ),
                (
                    "prefix_tokens",
                    (seen.cached_tokens as f64 / seen.prompt_tokens.max(1) as f64).into(),
                ),
                ("mean_ms", (1e3 * mean).into()),
                ("p95_ms", (1e3 * p95).into()),
                ("mean_saved", (1.0 - mean / first_mean).into()),
                ("p95_saved", (1.0 - p95 / first_p95).into()),
            ],
        );
    }
    report.note("guides claim for such stacks: 85 % of requests hit, 80 % less latency");
    Ok(())
}

/// The requests, in order.
fn asks(count: usize) -> Result<Vec<Ask>, Box<dyn Error>> {
    let pairs = include_str!("../../examples/data/semantic_pairs.jsonl");
    let mut same = Vec::new();
    for line in pairs.lines() {
        let pair: Value = serde_json::from_str(line)?;
        if let (Some(a), Some(b), Some(true)) = (
            pair["a"].as_str(),
            pair["b"].as_str(),
            pair["same"].as_bool(),
        ) {
            // The templates' long ones are another kind.
            if a.len() < 200 {
                same.push((a.to_owned(), b.to_owned()));
            }
        }
    }
    same.truncate(100);
    let weights: Vec<f64> = (1..=same.len()).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = weights.iter().sum();
    let mut random = Workload::new(7);
    let mut asks = Vec::new();
    for number in 0..count {
        let kind = random.uniform(0, 99);
        let mut left = random.unit() * total;
        let question = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let question = question.unwrap_or(0);
        let brief = "You answer in a few words.";
        let (system, text, question) = if kind < REPEATED {
            (brief, same[question].0.clone(), Some(question))
        } else if kind < REPEATED + REWORDED {
            (brief, same[question].1.clone(), Some(question))
        } else if kind < REPEATED + REWORDED + TEMPLATE {
            let text = format!("Ticket {number}: the parcel came late. What do I answer?");
            (SUPPORT, text, None)
        } else {
            (
                brief,
                format!("What is {number} times {}?", number + 3),
                None,
            )
        };
        let messages = [Message::system(system), Message::user(text)];
        asks.push(Ask {
            request: Request::messages(messages).max_tokens(48),
            question,
        });
    }
    Ok(asks)
}

const SUPPORT: &str = "You work for the support of a shop that sends books to all countries. You \
    are polite, you never promise what you cannot keep, you give no discounts, and when you do not \
    know something you say so and name the number of the office, which is open on workdays from \
    nine to five. You write in the language of the customer and in at most three sentences.";

/// All requests, by a few clients that each wait for their answer.
fn play(cached: &CacheLayer, asks: &[Ask]) -> Result<Seen, Box<dyn Error>> {
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(Seen::default());
    // What the model has said to each question, to tell whose answer a hit was.
    let said: Mutex<HashMap<usize, HashSet<Vec<TokenId>>>> = Mutex::default();
    let failed = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> Result<(), llmserve::Error> {
                    while let Some(ask) = asks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let began = Instant::now();
                        let (stream, trace) = cached.generate_traced(ask.request.clone());
                        let answer = stream.wait()?;
                        let took = began.elapsed();
                        let ids = answer.ids().to_vec();
                        let usage = answer.choices[0].usage;
                        let mut wrong = false;
                        if let (Ok(mut said), Some(question)) = (said.lock(), ask.question) {
                            let known = said.entry(question).or_default();
                            wrong = !known.contains(&ids);
                            known.insert(ids);
                        }
                        let Ok(mut seen) = seen.lock() else { continue };
                        seen.latency.push(took);
                        match trace.source() {
                            Some(Source::Exact { .. }) => seen.exact += 1,
                            Some(Source::Joined) => seen.joined += 1,
                            Some(Source::Semantic { .. }) => {
                                seen.semantic += 1;
                                seen.wrong += usize::from(wrong || ask.question.is_none());
                            }
                            _ => {
                                seen.prompt_tokens += usage.prompt_tokens;
                                seen.cached_tokens += usage.cached_tokens;
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().find_map(|client| {
            client
                .join()
                .map_or(Some(None), |done| done.err().map(Some))
        })
    });
    match failed {
        Some(Some(error)) => Err(error.into()),
        Some(None) => Err("a client panicked".into()),
        None => Ok(seen.into_inner().map_err(|_| "a client panicked")?),
    }
}
