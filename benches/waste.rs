//! KV waste: slots without a token in held blocks, the mean over a run (PagedAttention's figure).

use std::error::Error;

use clap::Parser;
use llmserve::prelude::*;
use llmserve_benches::{Common, Report, Workload};

/// KV waste by block size.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Sequences.
    #[arg(long, default_value_t = 1000)]
    sequences: usize,
    /// Shortest sequence, prompt and answer, in tokens.
    #[arg(long, default_value_t = 100)]
    min_len: usize,
    /// Longest sequence.
    #[arg(long, default_value_t = 600)]
    max_len: usize,
    /// Tokens generated per sequence, at most.
    #[arg(long, default_value_t = 32)]
    output: usize,
    /// Block sizes.
    #[arg(long, value_delimiter = ',', default_value = "16")]
    block_size: Vec<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let sequences = if args.common.quick {
        args.sequences / 10
    } else {
        args.sequences
    };
    let title = format!(
        "{sequences} sequences of {}-{} tokens",
        args.min_len, args.max_len
    );
    let mut report = Report::new(&title, args.common.json);
    for block_size in args.block_size {
        let engine = llmserve::serve(args.common.folder())
            .block_size(block_size)
            .build()?;
        let vocab = engine.info().vocab_size;
        let mut workload = Workload::new(args.common.seed);
        let streams: Vec<_> = (0..sequences)
            .map(|_| {
                let output = workload.uniform(1, args.output);
                let total = workload.uniform(args.min_len, args.max_len).max(output + 1);
                let prompt = workload.tokens(total - output, vocab);
                engine.generate(Request::tokens(prompt).max_tokens(output).ignore_eos(true))
            })
            .collect();
        for (_, event) in merge(streams) {
            event?;
        }
        let stats = engine.stats();
        report.row(
            &format!("block size {block_size}"),
            &[
                ("kv_waste", stats.kv_waste_mean.into()),
                ("steps", stats.steps.into()),
                ("peak_blocks", stats.kv_blocks_peak.into()),
            ],
        );
    }
    Ok(())
}
