//! What a traffic would feel like: the real scheduler and the real KV manager, in virtual time.
//!
//! ```text
//! cargo run --release --example simulate -- --requests 20000 --rate 50 --plot latencies.svg
//! cargo run --release --example simulate -- --tenants 4 --flood 2000 --fair --json
//! cargo run --release --example simulate -- --trace FILE.jsonl --kv-blocks 2048
//! ```
//!
//! A trace has one request a line, `{"arrival": SECONDS, "prompt_tokens": N, "output_tokens": N}`;
//! `--write-trace` shows all fields.

mod args;
mod draw;
mod print;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use llmserve::IdentityRoot;
use llmserve::kv::PagedKv;
use llmserve::sched::simulation::{Report, Simulation};
use llmserve::sched::{
    ContinuousScheduler, Displacing, EarliestDeadline, Fairness, Fcfs, LongestPrefix, Policy,
    Priority, SchedulerConfig, ShortestPredicted,
};

use args::{Arguments, EngineArgs, Order};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Arguments) -> Result<(), String> {
    let mut builder = Simulation::builder()
        .seed(args.seed)
        .cost(args.cost.model()?);
    for traffic in args.traffic.traffics()? {
        builder = builder.traffic(traffic);
    }
    let simulation = builder.build().map_err(|error| error.to_string())?;
    if let Some(file) = &args.traffic.write_trace {
        return write_trace(file, &simulation)
            .map_err(|error| format!("{}: {error}", file.display()));
    }
    let mut scheduler = scheduler(&args.engine)?;
    let mut kv = kv(&args.engine)?;
    let began = Instant::now();
    let report = match args.traffic.recorded()? {
        Some(requests) => simulation.replay(requests, &mut scheduler, &mut kv),
        None => simulation.run(&mut scheduler, &mut kv),
    };
    let report = report.map_err(|error| error.to_string())?;
    let took = began.elapsed();
    if let Some(file) = &args.plot {
        let title = title(args, &report);
        std::fs::write(file, draw::chart(&report, title).svg())
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let mut out = std::io::stdout().lock();
    let written = if args.json {
        serde_json::to_string(&report)
            .map_err(std::io::Error::from)
            .and_then(|json| writeln!(out, "{json}"))
    } else {
        print::report(&mut out, &report)
    };
    eprintln!("simulated in {:.2} s", took.as_secs_f64());
    written.map_err(|error| format!("stdout: {error}"))
}

fn scheduler(args: &EngineArgs) -> Result<ContinuousScheduler, String> {
    let policy: Box<dyn Policy> = match args.policy {
        Order::Fcfs => Box::new(Fcfs),
        Order::Priority => Box::new(Priority),
        Order::Displacing => Box::new(Displacing(Priority)),
        Order::Deadline => Box::new(EarliestDeadline),
        Order::Prefix => Box::new(LongestPrefix),
        Order::Shortest => Box::new(<ShortestPredicted>::default()),
    };
    let mut config = SchedulerConfig {
        fairness: args.fair.then(Fairness::default),
        admission_delay: Duration::from_millis(args.admission_delay),
        ..SchedulerConfig::default()
    };
    if args.no_reservation {
        config.reservation = None;
    }
    ContinuousScheduler::builder()
        .config(config)
        .policy(policy)
        .max_batched_tokens(args.max_batched_tokens)
        .max_num_seqs(args.max_num_seqs)
        .max_queue(args.max_queue)
        .build()
        .map_err(|error| error.to_string())
}

fn kv(args: &EngineArgs) -> Result<PagedKv, String> {
    PagedKv::builder()
        .blocks(args.kv_blocks)
        .block_size(args.block_size)
        .root(IdentityRoot::new(0, "simulated", args.block_size))
        .prefix_caching(!args.no_prefix_cache)
        .max_sequences(u32::MAX as usize)
        .build()
        .map_err(|error| error.to_string())
}

fn title(args: &Arguments, report: &Report) -> String {
    format!(
        "{} requests in {:.0} s: {:?}, {} tokens a step, {} seats, {} KV blocks of {}",
        report.requests.total,
        report.seconds,
        args.engine.policy,
        args.engine.max_batched_tokens,
        args.engine.max_num_seqs,
        args.engine.kv_blocks,
        args.engine.block_size
    )
}

fn write_trace(file: &std::path::Path, simulation: &Simulation) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    for request in simulation.requests() {
        serde_json::to_writer(&mut out, &request)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
