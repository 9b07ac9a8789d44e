//! What a shared prefix saves: time to first token with and without prefix caching.

use std::error::Error;

use clap::Parser;
use llmserve::prelude::*;
use llmserve_benches::{Common, Report, Workload};

/// A shared prefix, with and without prefix caching.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Requests, all at once.
    #[arg(long, default_value_t = 200)]
    requests: usize,
    /// Tokens all prompts begin with.
    #[arg(long, default_value_t = 256)]
    shared: usize,
    /// Tokens of each prompt's own.
    #[arg(long, default_value_t = 16)]
    own: usize,
    /// Tokens generated.
    #[arg(long, default_value_t = 4)]
    output: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let requests = if args.common.quick {
        args.requests / 8
    } else {
        args.requests
    };
    let mut report = Report::new(
        &format!(
            "{requests} requests at once, {} shared and {} own prompt tokens, {} generated",
            args.shared, args.own, args.output
        ),
        args.common.json,
    );
    let mut baseline = None;
    for caching in [false, true] {
        let engine = llmserve::serve(args.common.folder())
            .max_num_seqs(requests.max(1))
            .prefix_caching(caching)
            .build()?;
        let vocab = engine.info().vocab_size;
        let mut workload = Workload::new(args.common.seed);
        // Once for warmth, with a prefix of its own.
        engine
            .generate(Request::tokens(workload.tokens(64, vocab)).max_tokens(4))
            .wait()?;
        let shared = workload.tokens(args.shared, vocab);
        let streams: Vec<_> = (0..requests)
            .map(|_| {
                let mut prompt = shared.clone();
                prompt.extend(workload.tokens(args.own, vocab));
                let request = Request::tokens(prompt)
                    .max_tokens(args.output)
                    .ignore_eos(true);
                engine.generate(request)
            })
            .collect();
        let mut responses = vec![Response::default(); requests];
        for (index, event) in merge(streams) {
            responses[index].push(event?);
        }
        let cached: usize = responses[1..]
            .iter()
            .map(|r| r.choices[0].usage.cached_tokens)
            .sum();
        let share = cached as f64 / ((requests - 1) * args.shared).max(1) as f64;
        let last = &responses[requests / 2..];
        let ttft = last
            .iter()
            .map(|r| r.choices[0].timings.time_to_first_token.as_secs_f64() * 1e3)
            .sum::<f64>()
            / last.len() as f64;
        let off = *baseline.get_or_insert(ttft);
        report.row(
            if caching { "prefix caching" } else { "without" },
            &[
                ("cached_share", share.into()),
                ("ttft_last_half_ms", ttft.into()),
                ("over_without", (ttft / off).into()),
            ],
        );
    }
    Ok(())
}
