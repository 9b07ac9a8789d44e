//! Exact answers in memory, and equal requests that arrive together.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmserve_benches::{Report, median};
use llmserve_cache::{Answer, CacheLayer, Entry, Key, Lookup, MemoryStore, Policy, Stamp, Store};
use llmserve_core::{
    Event, EventStream, FinishReason, Finished, Generate, Message, Request, Started, Timings,
    TokenEvent, Usage,
};
use moka::sync::Cache;

/// Tokens of an answer.
const TOKENS: usize = 64;
/// Answers in the store.
const ENTRIES: usize = 10_000;

/// Answers at once.
struct AtOnce;

impl Generate for AtOnce {
    fn generate(&self, _request: Request) -> EventStream {
        EventStream::ready(answer(TOKENS).into_iter().map(Ok))
    }
}

fn answer(tokens: usize) -> Vec<Event> {
    let started = Event::Started(Started {
        prompt_ids: (0..200).collect(),
        prompt_logprobs: None,
    });
    let token = |id: usize| {
        Event::Token(TokenEvent {
            index: 0,
            id: 1_000 + id as u32,
            text: " word".into(),
            logprobs: None,
        })
    };
    let finished = Event::Finished(Finished {
        index: 0,
        reason: FinishReason::Eos(2),
        text: String::new(),
        usage: Usage::default(),
        timings: Timings::default(),
    });
    let tokens = (0..tokens).map(token);
    std::iter::once(started)
        .chain(tokens)
        .chain(std::iter::once(finished))
        .collect()
}

fn request(number: usize) -> Request {
    let system = "You answer questions about the plays of William Shakespeare. ".repeat(8);
    Request::messages([
        Message::system(system),
        Message::user(format!("What happens in scene {number} of the play?")),
    ])
    .tenant("acme")
    .model("bard")
    .max_tokens(256)
}

/// The median of `rounds` measurements of `times` calls, in nanoseconds a call.
fn nanos(rounds: usize, times: usize, mut call: impl FnMut(usize)) -> f64 {
    median((0..rounds).map(|round| {
        let began = Instant::now();
        for time in 0..times {
            call(round * times + time);
        }
        began.elapsed().as_nanos() as f64 / times as f64
    }))
}

fn middle(values: Vec<f64>) -> f64 {
    median(values.into_iter())
}

pub(crate) fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let (rounds, times) = if quick { (3, 200) } else { (21, 5_000) };
    hits(report, rounds, times)?;
    flights(report, rounds, times)?;
    stores(report, quick)
}

/// A hit through the layer: the key made, the entry found, the answer told.
fn hits(report: &mut Report, rounds: usize, times: usize) -> Result<(), Box<dyn Error>> {
    let cached = CacheLayer::new(AtOnce);
    for number in 0..ENTRIES {
        cached.generate(request(number)).wait()?;
    }
    let requests: Vec<_> = (0..ENTRIES).map(request).collect();
    let next = |at: usize| requests[at * 7 % ENTRIES].clone();
    // The request is the caller's: what it takes to make one is taken off.
    let bare = nanos(rounds, times, |at| drop(black_box(next(at))));
    let first = nanos(rounds, times, |at| {
        let mut stream = cached.generate(next(at));
        black_box(stream.blocking_next());
    }) - bare;
    let whole = nanos(rounds, times, |at| {
        black_box(cached.generate(next(at)).into_iter().count());
    }) - bare;
    let key = nanos(rounds, times, |at| {
        black_box(Key::new("", &requests[at * 7 % ENTRIES]));
    });
    let stats = cached.stats();
    assert_eq!(stats.misses as usize, ENTRIES, "all others are hits");
    report.row(
        "exact hit in memory",
        &[
            ("entries", ENTRIES.into()),
            ("answer_tokens", TOKENS.into()),
            ("key_ns", key.into()),
            ("first_event_ns", first.into()),
            ("whole_answer_ns", whole.into()),
        ],
    );
    Ok(())
}

/// A miss with and without single flight, around a service that takes no time.
fn flights(report: &mut Report, rounds: usize, times: usize) -> Result<(), Box<dyn Error>> {
    let layer = |single_flight: bool| {
        CacheLayer::builder(AtOnce)
            .policy(Policy::default().only(|request| request.max_tokens.is_some()))
            .store(MemoryStore::builder().max_bytes(1 << 20).build()?)
            .single_flight(single_flight)
            .build()
    };
    let (with, without) = (layer(true)?, layer(false)?);
    // Turn by turn, so that what disturbs one disturbs the other.
    let (mut alone, mut shared, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    let mut number = 0;
    for _ in 0..rounds {
        let mut time = |call: &dyn Fn(Request) -> usize| {
            let began = Instant::now();
            for _ in 0..times / 10 {
                number += 1;
                black_box(call(request(number)));
            }
            began.elapsed().as_nanos() as f64 / (times / 10) as f64
        };
        direct.push(time(&|request| {
            AtOnce.generate(request).into_iter().count()
        }));
        alone.push(time(&|request| {
            without.generate(request).into_iter().count()
        }));
        shared.push(time(&|request| with.generate(request).into_iter().count()));
    }
    let (direct, alone, shared) = (middle(direct), middle(alone), middle(shared));
    report.row(
        "a miss, answer kept",
        &[
            ("direct_ns", direct.into()),
            ("layer_ns", (alone - direct).into()),
            ("single_flight_ns", (shared - alone).into()),
        ],
    );
    Ok(())
}

/// The store beside the cache it is made of.
fn stores(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let span = Duration::from_millis(if quick { 20 } else { 500 });
    let keys: Vec<_> = (0..ENTRIES)
        .map(|number| Key::new("", &request(number)).map(Arc::new))
        .collect::<Option<_>>()
        .ok_or("a plain request has a key")?;
    let told = Answer::new(&answer(TOKENS)).ok_or("plain events")?;
    let store = MemoryStore::builder().max_bytes(256 << 20).build()?;
    let bare: Cache<u128, Arc<Answer>> = Cache::builder().max_capacity(256 << 20).build();
    for key in &keys {
        store.put(Entry::new(key.clone(), told.clone(), Stamp::default()));
        bare.insert(key.hash128(), Arc::new(told.clone()));
    }
    for threads in [1, 2] {
        let (mut ours, mut moka) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            ours.push(rate(threads, span, |at| {
                let found = store.get(&keys[at * 7 % ENTRIES]);
                assert!(matches!(black_box(found), Lookup::Ready(Some(_))));
            }));
            moka.push(rate(threads, span, |at| {
                assert!(black_box(bare.get(&keys[at * 7 % ENTRIES].hash128())).is_some());
            }));
        }
        let (ours, moka) = (middle(ours), middle(moka));
        report.row(
            &format!("memory store, {threads} thread(s)"),
            &[
                ("lookups_per_s", ours.into()),
                ("bare_moka_per_s", moka.into()),
                ("ratio", (ours / moka).into()),
            ],
        );
    }
    Ok(())
}

/// Calls a second, over all threads.
fn rate(threads: usize, span: Duration, call: impl Fn(usize) + Sync) -> f64 {
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|thread| {
                let call = &call;
                scope.spawn(move || {
                    let began = Instant::now();
                    let mut calls = 0;
                    while began.elapsed() < span {
                        for _ in 0..256 {
                            call(thread * 3_001 + calls);
                            calls += 1;
                        }
                    }
                    calls as f64 / began.elapsed().as_secs_f64()
                })
            })
            .collect();
        let rates = started.into_iter().map(|thread| thread.join());
        rates.map(|rate| rate.unwrap_or(0.0)).collect()
    });
    rates.iter().sum()
}
