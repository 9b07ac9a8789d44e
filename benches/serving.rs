//! Serving at real shapes: prefill and decode by batch, beside the machine's measured ceiling.
//!
//! Drives the engine's public streams and nothing beneath them. Prefill is prompt tokens over the
//! time until every request has its first token; decode is the tokens after the first over the
//! rest. The ceiling of decode is the lesser of what memory (weights once a step, and every
//! sequence's KV) and arithmetic (two operations for each weight and token) allow, both as
//! measured in the same run. A share above 1 means that a part of the weights stayed in a cache
//! between steps.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use llmserve::model::{Ceiling, DType, DecoderConfig, Kernels, ModelFolder, physical_cores};
use llmserve::prelude::*;
use llmserve_benches::{Report, Shape, Workload};

/// Prefill and decode speed by batch.
#[derive(Parser)]
struct Args {
    /// `smol135`, `llama1b`, or a model folder.
    #[arg(long, default_value = "smol135", value_name = "smol135|llama1b|DIR")]
    shape: String,
    /// How weights and KV are stored.
    #[arg(long, default_value = "bf16")]
    dtype: DTypeArg,
    /// Prompt tokens of each request.
    #[arg(long, default_value_t = 128)]
    prompt_len: usize,
    /// Tokens each request generates.
    #[arg(long, default_value_t = 64)]
    gen_len: usize,
    /// Requests at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    batch: Vec<usize>,
    /// Threads. Default: the physical cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Where models of a named shape are made and kept.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/shapes"))]
    shapes_dir: PathBuf,
    /// Print one JSON object a row.
    #[arg(long)]
    json: bool,
    /// The embedded model and few tokens: does it run at all?
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DTypeArg {
    F32,
    Bf16,
    Int8,
    Int4,
}

/// What a token costs, from the model's sizes.
struct Cost {
    /// Weights of all layers.
    layers: f64,
    /// Weights of the output head.
    head: f64,
    /// Bytes of a weight.
    weight_bytes: f64,
    /// Bytes of keys and values of a token.
    kv_bytes: f64,
}

impl Cost {
    fn new(config: &DecoderConfig, dtype: DType) -> Self {
        let heads = config.num_heads + 2 * config.num_kv_heads;
        let qkv = config.hidden_size * heads * config.head_dim;
        let output = config.hidden_size * config.num_heads * config.head_dim;
        let mlp = 3 * config.hidden_size * config.intermediate_size;
        let kv = 2 * config.num_layers * config.num_kv_heads * config.head_dim;
        Self {
            layers: (config.num_layers * (qkv + output + mlp)) as f64,
            head: (config.hidden_size * config.vocab_size) as f64,
            weight_bytes: dtype.bits() / 8.0,
            kv_bytes: kv as f64 * dtype.kv().bits() / 8.0,
        }
    }

    /// Bytes that a decode step reads for `batch` sequences of `context` tokens.
    fn step_bytes(&self, batch: f64, context: f64) -> f64 {
        (self.layers + self.head) * self.weight_bytes + batch * context * self.kv_bytes
    }

    /// Operations of a decoded token, attention not counted.
    fn token_flops(&self) -> f64 {
        2.0 * (self.layers + self.head)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    let (folder, prompt_len, gen_len) = if args.quick {
        args.shape = "bard-2m".to_owned();
        (llmserve_benches::embedded_model(), 32, 8)
    } else {
        let folder = match Shape::named(&args.shape) {
            Some(shape) => shape.folder(&args.shapes_dir)?,
            None => PathBuf::from(&args.shape),
        };
        (folder, args.prompt_len, args.gen_len)
    };
    let dtype = match args.dtype {
        DTypeArg::F32 => DType::F32,
        DTypeArg::Bf16 => DType::BF16,
        DTypeArg::Int8 => DType::Int8,
        DTypeArg::Int4 => DType::Int4,
    };
    let threads = args.threads.unwrap_or_else(physical_cores);
    let config = ModelFolder::open(&folder)?.config;
    let cost = Cost::new(&config, dtype);
    let most = args.batch.iter().copied().max().unwrap_or(1);

    let ceiling = Ceiling::measure(Kernels::detect(), threads)?;
    // The probe's memory is not the model's: the peak starts anew (Linux; elsewhere it is 0).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let began = Instant::now();
    let engine = llmserve::serve(&folder)
        .dtype(dtype)
        .threads(threads)
        .max_num_seqs(most)
        .prefix_caching(false)
        .build()?;
    let mut report = Report::new(
        &format!(
            "{}, {} prompt and {} generated tokens, {}, loaded in {:.1} s; \
             ceilings {:.1} GB/s, {:.0} GFLOP/s f32",
            args.shape,
            prompt_len,
            gen_len,
            engine.info().backend,
            began.elapsed().as_secs_f64(),
            ceiling.read_gb_s,
            ceiling.f32_gflop_s,
        ),
        args.json,
    );
    let mut workload = Workload::new(1);
    let vocab = engine.info().vocab_size;
    // Once for warmth: pages touched, threads awake.
    run(&engine, &mut workload, vocab, 1, prompt_len, gen_len.min(4))?;
    for &batch in &args.batch {
        let (prefill, decode) = run(&engine, &mut workload, vocab, batch, prompt_len, gen_len)?;
        let steps = (gen_len - 1) as f64;
        let rows = batch as f64;
        let context = prompt_len as f64 + gen_len as f64 / 2.0;
        let bytes = cost.step_bytes(rows, context);
        let flops = cost.token_flops() * rows;
        let best = (bytes / (ceiling.read_gb_s * 1e9)).max(flops / (ceiling.f32_gflop_s * 1e9));
        report.row(
            &format!("batch {batch}"),
            &[
                ("shape", args.shape.as_str().into()),
                ("dtype", dtype.to_string().into()),
                ("batch", batch.into()),
                ("prefill_tok_s", (rows * prompt_len as f64 / prefill).into()),
                ("decode_tok_s", (rows * steps / decode).into()),
                (
                    "total_tok_s",
                    (rows * (prompt_len + gen_len) as f64 / (prefill + decode)).into(),
                ),
                ("peak_rss_bytes", peak_rss().into()),
                ("gb_s", (bytes * steps / decode / 1e9).into()),
                ("gflop_s", (flops * steps / decode / 1e9).into()),
                ("ceiling_share", (best * steps / decode).into()),
            ],
        );
    }
    Ok(())
}

/// Serves `batch` requests together; seconds until the last first token, and from there to the end.
fn run(
    engine: &Engine,
    workload: &mut Workload,
    vocab: usize,
    batch: usize,
    prompt_len: usize,
    gen_len: usize,
) -> Result<(f64, f64), llmserve::Error> {
    let prompts: Vec<_> = (0..batch)
        .map(|_| workload.tokens(prompt_len, vocab))
        .collect();
    let streams: Vec<_> = prompts
        .into_iter()
        .map(|prompt| {
            let request = Request::tokens(prompt).max_tokens(gen_len).ignore_eos(true);
            engine.generate(request)
        })
        .collect();
    // The engine's own clock: a reader may be late.
    let (mut first, mut last) = (0f64, 0f64);
    for (_, event) in merge(streams) {
        if let Event::Finished(finished) = event? {
            first = first.max(finished.timings.time_to_first_token.as_secs_f64());
            last = last.max(finished.timings.latency.as_secs_f64());
        }
    }
    Ok((first, (last - first).max(1e-9)))
}

/// Most memory this process ever had resident, in bytes; 0 where the system does not say.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
