//! What routing policies do to a traffic: the real router, the real policies and the real prefix
//! index before simulated replicas, in virtual time.
//!
//! ```text
//! cargo run --release --example route_sim
//! cargo run --release --example route_sim -- --trace shared-prefix --policy round-robin,kv-aware --plot hits.svg
//! cargo run --release --example route_sim -- --trace FILE.jsonl --replicas 4 --json
//! ```
//!
//! A file has one request a line, `{"arrival": SECONDS, "prompt": [[CONTENT, TOKENS], ...],
//! "answer": [CONTENT, TOKENS], "session": NAME}`: equal contents are equal tokens.

mod args;
mod draw;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llmserve::route::simulation::{Policy, Report, Simulation};

use args::{Arguments, Asked};

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
    let asked = args.asked()?;
    let model = args.model();
    let mut builder = Simulation::builder()
        .replicas(args.replicas)
        .model(model)
        .seed(args.seed);
    if let Asked::Clients(traffic) = &asked {
        builder = builder.traffic(traffic.clone());
    }
    if let Some(requests) = args.requests {
        builder = builder.requests(requests);
    }
    let simulation = builder.build().map_err(|error| error.to_string())?;
    let policy = |name: &str| {
        let policy = Policy::named(name, model.block_tokens, args.seed);
        policy.map_err(|error| error.to_string())
    };
    // All names are looked at before the first policy runs.
    for name in &args.policy {
        policy(name)?;
    }
    let mut out = std::io::stdout().lock();
    let mut reports = Vec::new();
    if !args.json {
        print_head(&mut out).map_err(told)?;
    }
    for name in &args.policy {
        let began = Instant::now();
        let report = match &asked {
            Asked::Clients(_) => simulation.run(policy(name)?),
            Asked::Recorded(requests) => simulation.replay(requests.iter().cloned(), policy(name)?),
        };
        let report = report.map_err(|error| format!("{name}: {error}"))?;
        eprintln!(
            "{name}: simulated in {:.1} s",
            began.elapsed().as_secs_f64()
        );
        let printed = if args.json {
            print_json(&mut out, name, &args.trace, &report)
        } else {
            print_row(&mut out, name, &report)
        };
        printed.map_err(told)?;
        reports.push((name.clone(), report));
    }
    if let Some(file) = &args.plot {
        let title = format!(
            "{}: {} replicas, {} KV tokens each, seed {}",
            args.trace, args.replicas, model.kv_tokens, args.seed
        );
        std::fs::write(file, draw::chart(&reports, title).svg())
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

fn told(error: std::io::Error) -> String {
    format!("stdout: {error}")
}

fn print_head(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>11}",
        "policy", "requests", "TTFT ms", "p50", "p99", "req/s", "hit rate", "imbalance"
    )
}

fn print_row(out: &mut impl Write, name: &str, report: &Report) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<22}{:>10}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>10.3}{:>11.3}",
        name,
        report.requests,
        report.mean_ttft_ms,
        report.p50_ttft_ms,
        report.p99_ttft_ms,
        report.throughput_rps,
        report.hit_rate,
        report.imbalance
    )?;
    if report.refused > 0 {
        writeln!(out, "{:<22}{:>10} refused", "", report.refused)?;
    }
    Ok(())
}

/// One line for one policy.
#[derive(serde::Serialize)]
struct Line<'a> {
    policy: &'a str,
    trace: &'a str,
    requests: u64,
    mean_ttft_ms: f64,
    p50_ttft_ms: f64,
    p99_ttft_ms: f64,
    throughput_rps: f64,
    hit_rate: f64,
    imbalance: f64,
}

fn print_json(
    out: &mut impl Write,
    policy: &str,
    trace: &str,
    report: &Report,
) -> std::io::Result<()> {
    let line = Line {
        policy,
        trace,
        requests: report.requests,
        mean_ttft_ms: report.mean_ttft_ms,
        p50_ttft_ms: report.p50_ttft_ms,
        p99_ttft_ms: report.p99_ttft_ms,
        throughput_rps: report.throughput_rps,
        hit_rate: report.hit_rate,
        imbalance: report.imbalance,
    };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)
}
