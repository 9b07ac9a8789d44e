//! Continuous against static batching, on the same engine (Orca, Yu et al. 2022).
//!
//! Static batching takes as many requests as there are slots and starts the next ones when all of
//! them are done: it waits for its longest. In its classic form a finished row stays in the batch
//! as padding and is computed until then; the kinder form, where a finished row leaves and its
//! slot idles, is shown beside it.

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use llmserve::prelude::*;
use llmserve_benches::{Common, Report, Workload};

/// Continuous against static batching.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Requests.
    #[arg(long, default_value_t = 512)]
    requests: usize,
    /// Sequences that run at once.
    #[arg(long, default_value_t = 16)]
    slots: usize,
    /// Shortest answer, in tokens.
    #[arg(long, default_value_t = 8)]
    min_len: usize,
    /// Longest answer, in tokens; lengths are log-uniform.
    #[arg(long, default_value_t = 256)]
    max_len: usize,
    /// Prompt tokens.
    #[arg(long, default_value_t = 16)]
    prompt_len: usize,
}

struct Job {
    prompt: Vec<u32>,
    len: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let requests = if args.common.quick {
        args.requests / 8
    } else {
        args.requests
    };
    let engine = llmserve::serve(args.common.folder())
        .max_num_seqs(args.slots)
        .build()?;
    let mut workload = Workload::new(args.common.seed);
    let vocab = engine.info().vocab_size;
    let jobs: Vec<Job> = (0..requests)
        .map(|_| Job {
            len: workload.log_uniform(args.min_len, args.max_len),
            prompt: workload.tokens(args.prompt_len, vocab),
        })
        .collect();
    let useful: usize = jobs.iter().map(|job| job.len).sum();
    let padded: usize = jobs
        .chunks(args.slots)
        .map(|batch| batch.iter().map(|job| job.len).max().unwrap_or(0) * args.slots)
        .sum();
    let bound = padded as f64 / useful as f64;

    // Once for warmth: pages touched, threads awake.
    run(&engine, &jobs[..args.slots.min(jobs.len())], |job| job.len)?;
    let continuous = time(|| run(&engine, &jobs, |job| job.len))?;
    let batches = || jobs.chunks(args.slots);
    let static_padded = time(|| {
        batches().try_for_each(|batch| {
            let longest = batch.iter().map(|job| job.len).max().unwrap_or(0);
            run(&engine, batch, |_| longest)
        })
    })?;
    let static_leaving =
        time(|| batches().try_for_each(|batch| run(&engine, batch, |job| job.len)))?;

    let title = format!(
        "{requests} requests, {}-{} tokens log-uniform, {} slots, {}",
        args.min_len,
        args.max_len,
        args.slots,
        engine.info().backend
    );
    let mut report = Report::new(&title, args.common.json);
    let mut row = |name: &str, seconds: f64| {
        let figures = [
            ("seconds", seconds.into()),
            ("useful_tok_s", (useful as f64 / seconds).into()),
            ("continuous_over", (seconds / continuous).into()),
            ("bound", bound.into()),
        ];
        report.row(name, &figures);
    };
    row("continuous", continuous);
    row("static", static_padded);
    row("static, finished rows leave", static_leaving);
    report.note("bound: computed rows of static over useful tokens, prompts not counted");
    Ok(())
}

fn time(run: impl FnOnce() -> Result<(), llmserve::Error>) -> Result<f64, llmserve::Error> {
    let began = Instant::now();
    run()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Serves jobs together and waits for the last.
fn run(engine: &Engine, jobs: &[Job], len: impl Fn(&Job) -> usize) -> Result<(), llmserve::Error> {
    let streams = jobs.iter().map(|job| {
        let request = Request::tokens(job.prompt.clone())
            .max_tokens(len(job))
            .ignore_eos(true);
        engine.generate(request)
    });
    for (_, event) in merge(streams.collect::<Vec<_>>()) {
        event?;
    }
    Ok(())
}
