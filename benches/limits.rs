//! What it costs to keep callers to their limits, and whether they are kept: in one run.
//!
//! Two threads ask for the same callers at a steady rate. Time stands still in a window and moves
//! between them, so that each caller must get exactly its limit in each, whoever asks; the run
//! fails otherwise. Then callers that are seen once and never again, which must not be remembered
//! for long.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use llmserve::route::limits::{Limit, Limiter, Per, Rate};
use llmserve_benches::{CountingAllocator, Live, Report};
use llmserve_core::ManualClock;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[derive(Parser)]
struct Args {
    /// Callers.
    #[arg(long, default_value_t = 10_000)]
    keys: usize,
    /// Decisions a second of both threads together.
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    /// Windows.
    #[arg(long, default_value_t = 3)]
    windows: u32,
    /// A tenth of the work.
    #[arg(long)]
    quick: bool,
    /// One JSON object a row.
    #[arg(long)]
    json: bool,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Requests a caller may make in a window.
const LIMIT: u32 = 5;
/// And makes, half of them in each thread.
const ASKED: u32 = 10;
const THREADS: u32 = 2;
/// Tokens that are reserved, and that a request comes to.
const RESERVED: u64 = 1_000;
const SPENT: u64 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    if args.quick {
        args.keys /= 10;
    }
    let names: Vec<String> = (0..args.keys).map(|at| format!("caller-{at}")).collect();
    let before = Live::now();
    let clock = Arc::new(ManualClock::default());
    let limiter = limiter(&clock)?;
    let mut report = Report::new(
        &format!("{} callers, {LIMIT} requests each a window", args.keys),
        args.json,
    );
    for pace in [Some(args.rate), None] {
        let mut times = Vec::new();
        let began = Instant::now();
        let mut exact = 0;
        for _ in 0..args.windows {
            let passed: Vec<AtomicU32> = names.iter().map(|_| AtomicU32::new(0)).collect();
            times.extend(window(&limiter, &names, &passed, pace));
            for (name, passed) in names.iter().zip(passed) {
                let passed = passed.into_inner();
                if passed != LIMIT {
                    return Err(format!("{name} got {passed} of {LIMIT}").into());
                }
                exact += 1;
            }
            clock.advance(Duration::from_secs(60));
        }
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        report.row(
            if pace.is_some() { "paced" } else { "flat out" },
            &[
                ("decisions_per_s", json!(rate.round())),
                ("p50_ns", json!(at(0.5))),
                ("p99_ns", json!(at(0.99))),
                ("limits_kept_exactly", json!(exact)),
            ],
        );
    }
    memory(&args, &limiter, &clock, before)
}

/// Requests a minute are what is asked for; tokens are taken and given back beside them.
fn limiter(clock: &Arc<ManualClock>) -> Result<Limiter, Box<dyn Error>> {
    let limit = Limit::default()
        .requests(Rate::new(u64::from(LIMIT), Per::Minute))
        .tokens(Rate::new(u64::from(LIMIT) * RESERVED, Per::Minute))
        .concurrent(64);
    let builder = Limiter::builder().default_limit(limit);
    Ok(builder.clock(clock.clone()).build()?)
}

/// Everybody asks. Nanoseconds of each decision, with the settling of those that pass.
fn window(
    limiter: &Limiter,
    names: &[String],
    passed: &[AtomicU32],
    pace: Option<u32>,
) -> Vec<u64> {
    let asks = |thread: u32| {
        let mut times = Vec::with_capacity(names.len() * (ASKED / THREADS) as usize);
        let began = Instant::now();
        for _ in 0..ASKED / THREADS {
            for step in 0..names.len() {
                if let Some(rate) = pace
                    && times.len() % 32 == 0
                {
                    let each = Duration::from_secs(1) * THREADS / rate;
                    let due = each * times.len() as u32;
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
                // From both ends, so that they meet.
                let at = if thread == 0 {
                    step
                } else {
                    names.len() - 1 - step
                };
                let asked = Instant::now();
                if let Ok(charge) = limiter.reserve(&names[at], RESERVED) {
                    charge.settle(SPENT);
                    drop(charge);
                    passed[at].fetch_add(1, Ordering::Relaxed);
                }
                times.push(asked.elapsed().as_nanos() as u64);
            }
        }
        times
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || asks(thread)))
            .collect();
        let times = threads.into_iter().map(|thread| thread.join());
        times.flat_map(Result::unwrap_or_default).collect()
    })
}

/// What the callers hold, and strangers after them: a hundred times as many, each seen once.
fn memory(
    args: &Args,
    limiter: &Limiter,
    clock: &ManualClock,
    before: Live,
) -> Result<(), Box<dyn Error>> {
    let mut report = Report::new("memory", args.json);
    let mut row = |name: &str, callers: usize, live: Live| {
        let held = live.bytes.saturating_sub(before.bytes);
        let figures = [("callers", json!(callers)), ("live_kib", json!(held >> 10))];
        report.row(name, &figures);
    };
    row("callers", limiter.callers(), Live::now());
    clock.advance(Duration::from_secs(3_600));
    let (mut most, mut callers) = (Live::default(), 0);
    let strangers = args.keys * 100;
    for at in 0..strangers {
        drop(limiter.reserve(&format!("stranger-{at}"), RESERVED)?);
        if at % 1_000 == 0 {
            // A caller is like new again after a minute's fifth, in which 6,000 others come.
            clock.advance(Duration::from_secs(2));
            callers = callers.max(limiter.callers());
            let live = Live::now();
            if live.bytes > most.bytes {
                most = live;
            }
        }
    }
    row(&format!("{strangers} strangers, at most"), callers, most);
    clock.advance(Duration::from_secs(3_600));
    for at in 0..20_000 {
        drop(limiter.reserve(&format!("late-{at}"), RESERVED)?);
        clock.advance(Duration::from_secs(1));
    }
    row("in the end", limiter.callers(), Live::now());
    // Those that passed in a minute's fifth, and as many again that nobody has come upon yet.
    if callers > 4 * args.keys.max(6_000) {
        return Err(format!("{callers} callers are remembered").into());
    }
    Ok(())
}
