//! A router over four servers on this machine while they fail.
//!
//! ```text
//! cargo bench -p llmserve-benches --bench faults                  all four faults at once
//! cargo bench -p llmserve-benches --bench faults -- --soak 600    faults at random, for so long
//! cargo bench -p llmserve-benches --bench faults -- --overhead 20 no fault: what the router adds
//! cargo bench -p llmserve-benches --bench faults -- --flood 10    no fault: one tenant asks for all
//! ```
//!
//! The first runs the same traffic twice, without and with faults: one server is killed, one hangs,
//! one answers 500, one is slow. It tells what the faults add, and fails if an answer is lost
//! before its first token, told twice, cut off, or not the one an uninterrupted run gives. So does
//! the second, and if any counter is not back at zero in the end; it tells what memory the router,
//! its endpoints and its clients hold. Servers are processes of their own.

mod flood;
mod overhead;
mod rig;
mod server;
mod service;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use llmserve_benches::{CountingAllocator, Live, Report};
use rig::{Fault, Outcome, Rig};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[derive(Parser)]
struct Args {
    /// Requests a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds of traffic, of which the faults take the second half.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Seconds of faults at random instead.
    #[arg(long)]
    soak: Option<u64>,
    /// Seconds of calls without faults, directly and through the router, instead.
    #[arg(long)]
    overhead: Option<u64>,
    /// Seconds of a tenant of few requests, alone and beside one of many, instead.
    #[arg(long)]
    flood: Option<u64>,
    /// A small run that shows that it works.
    #[arg(long)]
    quick: bool,
    /// One JSON object a row.
    #[arg(long)]
    json: bool,
    /// Be one of the servers, at this address.
    #[arg(long, hide = true)]
    serve: Option<SocketAddr>,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    if let Some(address) = args.serve {
        return server::serve(address);
    }
    if args.quick {
        (args.rate, args.seconds) = (100, 2);
        soak(&args, 4)?;
        overhead::overhead(&args, 2)?;
        flood::flood(&args, 1)?;
    }
    if let Some(seconds) = args.soak {
        soak(&args, seconds)
    } else if let Some(seconds) = args.overhead {
        overhead::overhead(&args, seconds)
    } else if let Some(seconds) = args.flood {
        flood::flood(&args, seconds)
    } else {
        faults(&args)
    }
}

/// The same traffic without faults and with all of them.
fn faults(args: &Args) -> Result<(), Box<dyn Error>> {
    let title = format!("{} requests/s, {} s", args.rate, args.seconds);
    let mut report = Report::new(&title, args.json);
    let half = Duration::from_secs(args.seconds) / 2;
    let mut well_p99 = Duration::ZERO;
    for faulty in [false, true] {
        let mut rig = Rig::new()?;
        let mut traffic = rig.start(args.rate, half * 2);
        std::thread::sleep(half);
        if faulty {
            let faults = [Fault::Killed, Fault::Hung, Fault::Errors, Fault::Slow];
            for (server, fault) in faults.into_iter().enumerate() {
                rig.fault(server, fault)?;
            }
        }
        let outcomes = traffic.finish();
        let told = Told::of(&outcomes);
        check(&told, &outcomes)?;
        let again = rig.all_dispatched().saturating_sub(outcomes.len() as u64);
        if faulty {
            rig.heal(0)?;
            recovers(&rig, args.rate)?;
        } else {
            well_p99 = told.p99;
        }
        rig.is_idle()?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        report.row(
            if faulty { "four faults" } else { "no fault" },
            &[
                ("requests", json!(outcomes.len())),
                ("answered", json!(told.whole)),
                ("asked_again", json!(again)),
                ("cut_off", json!(told.cut_off)),
                ("first_token_p50_ms", json!(ms(told.first_p50))),
                ("first_token_p99_ms", json!(ms(told.first_p99))),
                ("answer_p50_ms", json!(ms(told.p50))),
                ("answer_p99_ms", json!(ms(told.p99))),
                ("added_p99_ms", json!(ms(told.p99.saturating_sub(well_p99)))),
            ],
        );
    }
    Ok(())
}

/// The killed server is back: it must be given requests again.
fn recovers(rig: &Rig, rate: u32) -> Result<(), String> {
    let before = rig.dispatched(0);
    let outcomes = rig.start(rate, Duration::from_secs(2)).finish();
    check(&Told::of(&outcomes), &outcomes)?;
    match rig.dispatched(0) - before {
        0 => Err("a server that came back was given nothing".into()),
        _ => Ok(()),
    }
}

/// Faults at random, one after another and several at once. One server is spared at a time, and
/// has been for a round already, so that everybody can be answered.
fn soak(args: &Args, seconds: u64) -> Result<(), Box<dyn Error>> {
    const ROUND: Duration = Duration::from_secs(4);
    let mut report = Report::new(&format!("{seconds} s of faults at random"), args.json);
    let mut rig = Rig::new()?;
    let (mut requests, mut faults) = (0, 0);
    let rounds = seconds.div_ceil(ROUND.as_secs()) as usize;
    let mut memory = Vec::with_capacity(rounds);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..rounds {
        let spared = [round / 2 % 4, round.div_ceil(2) % 4];
        rig.heal(spared[1])?;
        let mut traffic = rig.start(args.rate, ROUND);
        for _ in 0..9 {
            std::thread::sleep(ROUND / 10);
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            let (server, fault) = ((state >> 40) as usize % 4, (state >> 50) % 6);
            if spared.contains(&server) {
                continue;
            }
            faults += usize::from(fault < 4);
            match fault {
                0 => rig.fault(server, Fault::Killed)?,
                1 => rig.fault(server, Fault::Hung)?,
                2 => rig.fault(server, Fault::Errors)?,
                3 => rig.fault(server, Fault::Slow)?,
                _ => rig.heal(server)?,
            }
        }
        let outcomes = traffic.finish();
        check(&Told::of(&outcomes), &outcomes)?;
        requests += outcomes.len();
        drop((outcomes, traffic));
        memory.push((Live::now(), rig::resident_kib()));
    }
    for server in 0..4 {
        rig.heal(server)?;
    }
    rig.is_idle()?;
    // The first tenth is for buffers to grow. Connections come and go: what is held at least.
    let least = |part: &[(Live, u64)]| {
        let least = part.iter().min_by_key(|(live, _)| live.bytes).copied();
        least.unwrap_or_default()
    };
    let settled = &memory[memory.len() / 10..];
    let (early, late) = settled.split_at(settled.len() / 2);
    let (early, late) = (least(early), least(late));
    report.row(
        "soak",
        &[
            ("requests", json!(requests)),
            ("faults", json!(faults)),
            ("asked_again", json!(rig.all_dispatched() - requests as u64)),
            ("live_kib_early", json!(early.0.bytes >> 10)),
            ("live_kib_late", json!(late.0.bytes >> 10)),
            ("live_pieces_early", json!(early.0.pieces)),
            ("live_pieces_late", json!(late.0.pieces)),
            ("resident_kib_early", json!(early.1)),
            ("resident_kib_late", json!(late.1)),
        ],
    );
    Ok(())
}

/// What became of the requests.
struct Told {
    whole: usize,
    cut_off: usize,
    lost: usize,
    wrong: usize,
    first_p50: Duration,
    first_p99: Duration,
    p50: Duration,
    p99: Duration,
}

impl Told {
    fn of(outcomes: &[Outcome]) -> Self {
        let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|o| is(o)).count();
        let firsts: Vec<_> = outcomes.iter().filter_map(|o| o.first).collect();
        let ends: Vec<_> = outcomes.iter().filter(|o| o.whole).map(|o| o.end).collect();
        Self {
            whole: count(|o| o.whole),
            cut_off: count(|o| !o.whole && o.first.is_some()),
            lost: count(|o| !o.whole && o.first.is_none()),
            wrong: count(|o| o.wrong),
            first_p50: quantile(firsts.clone(), 0.5),
            first_p99: quantile(firsts, 0.99),
            p50: quantile(ends.clone(), 0.5),
            p99: quantile(ends, 0.99),
        }
    }
}

/// The time that `part` of them do not exceed.
fn quantile(mut times: Vec<Duration>, part: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len() as f64 * part) as usize;
    let at = at.min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

fn check(told: &Told, outcomes: &[Outcome]) -> Result<(), String> {
    if told.wrong > 0 {
        return Err(format!(
            "{} answers are not what they should be",
            told.wrong
        ));
    }
    if told.lost + told.cut_off > 0 {
        let errors: Vec<_> = outcomes
            .iter()
            .filter_map(|o| o.error.as_ref())
            .take(3)
            .collect();
        return Err(format!(
            "{} requests were lost, {} cut off: {errors:?}",
            told.lost, told.cut_off
        ));
    }
    Ok(())
}
