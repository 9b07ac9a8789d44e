//! Sentence embedders: microseconds a call, against what the machine allows and beside onnxruntime.
//!
//! A call of `embed` counts whole, from texts to vectors. `arithmetic_share` is the least time in
//! which the machine multiplies and adds what the products of a call must, over the time it took;
//! `memory_share` the same for reading the packed weights once from memory (they may stay in a cache,
//! and so it may exceed 1). With `--peer PYTHON` that interpreter runs onnxruntime on the same
//! weights in turns with ours; it starts from tokens, so ours does the tokenizer's work besides.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use llmserve::Embedder;
use llmserve::cache::HashedNgrams;
use llmserve::model::{Ceiling, EncoderOptions, Kernels, SentenceEncoder, physical_cores};
use llmserve_benches::{Format, Report, median};

use peer::Peer;

mod peer;

/// Sentence embedders against the machine's ceilings and a peer.
#[derive(Parser)]
struct Args {
    /// The folder of all-MiniLM-L6-v2, or of another BERT encoder. Default: `target/minilm`, where
    /// `.ci/minilm` puts it.
    #[arg(long, value_name = "DIR")]
    minilm: Option<PathBuf>,
    /// How weights are stored.
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,int8")]
    dtype: Vec<Format>,
    /// Tokens of a text.
    #[arg(long, value_delimiter = ',', default_value = "8,32,128,256")]
    tokens: Vec<usize>,
    /// Texts of a call, where texts have 32 tokens.
    #[arg(long, value_delimiter = ',', default_value = "8,32")]
    texts: Vec<usize>,
    /// Threads. Default: the physical cores.
    #[arg(long)]
    threads: Option<usize>,
    /// A Python that has numpy, onnx, onnxruntime and safetensors.
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// Rounds; the median of all calls counts.
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Print one JSON object a row.
    #[arg(long)]
    json: bool,
    /// Few sizes and rounds: does it run at all?
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Calls of a round.
const CALLS: usize = 8;

/// Until threads that wait for more work have gone to sleep, ours or the peer's.
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    if args.quick {
        (args.tokens, args.texts, args.rounds) = (vec![32], vec![4], 2);
    }
    hashed(&args)?;
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/minilm");
    let folder = args.minilm.clone().unwrap_or(default);
    if folder.join("model.safetensors").exists() {
        encoders(&args, &folder)
    } else {
        eprintln!(
            "SKIPPED: no sentence encoder in {}: run .ci/minilm, or name a folder with --minilm",
            folder.display()
        );
        Ok(())
    }
}

/// The weightless one.
fn hashed(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut report = Report::new("hashed n-grams, one thread", args.json);
    let embedder = HashedNgrams::default();
    for words in [8, 32, 128, 1024] {
        let text = words_of(words);
        let rounds = args.rounds * 16;
        let us = median((0..rounds).map(|_| {
            let began = Instant::now();
            for _ in 0..CALLS {
                std::hint::black_box(embedder.embed(&[std::hint::black_box(&text)]).ok());
            }
            began.elapsed().as_secs_f64() * 1e6 / CALLS as f64
        }));
        let name = format!("{} {words} words", embedder.identity());
        report.row(&name, &[("us", us.into()), ("bytes", text.len().into())]);
    }
    Ok(())
}

fn encoders(args: &Args, folder: &Path) -> Result<(), Box<dyn Error>> {
    let kernels = Kernels::detect();
    let threads = args.threads.unwrap_or_else(physical_cores);
    let ceiling = Ceiling::measure(kernels, threads)?;
    let mut peer = match &args.peer {
        Some(python) => Some(Peer::start(python, folder, threads)?),
        None => {
            eprintln!("SKIPPED: no peer beside: name a Python that has onnxruntime with --peer");
            None
        }
    };
    let beside = peer
        .as_ref()
        .map_or(String::new(), |peer| format!("; beside {}", peer.name()));
    let title = format!(
        "{}, {kernels}, {threads} threads; ceilings: {:.1} GB/s, GFLOP/s {:.0} f32, {:.0} bf16, {:.0} bytes{beside}",
        folder.display(),
        ceiling.read_gb_s,
        ceiling.f32_gflop_s,
        ceiling.bf16_gflop_s,
        ceiling.int8_gflop_s
    );
    let mut report = Report::new(&title, args.json);
    for dtype in args.dtype.iter().map(|format| format.dtype()) {
        let options = EncoderOptions {
            dtype,
            threads: Some(threads),
            kernels: Some(kernels),
        };
        let encoder = SentenceEncoder::open(folder, &options)?;
        let single = args.tokens.iter().map(|&tokens| (1, tokens));
        let several = args.texts.iter().map(|&texts| (texts, 32));
        for (texts, tokens) in single.chain(several) {
            let text = text_of(&encoder, tokens)?;
            let all = vec![text.as_str(); texts];
            let mut ours = Vec::new();
            let mut theirs = Vec::new();
            // In turns, so that what slows the machine for a while slows both.
            for round in 0..args.rounds {
                std::thread::sleep(PAUSE);
                let mut vectors = encoder.embed(&all)?;
                for _ in 0..CALLS {
                    let began = Instant::now();
                    vectors = encoder.embed(&all)?;
                    ours.push(began.elapsed().as_secs_f64());
                }
                if let Some(peer) = &mut peer {
                    std::thread::sleep(PAUSE);
                    let ids = vec![encoder.tokens(&text)?; texts];
                    let (seconds, vector) = peer.embed(&ids, CALLS + 1)?;
                    // The first call wakes its threads, as ours did.
                    theirs.extend(seconds.into_iter().skip(1));
                    if round == 0 {
                        let dot = |(a, b): (&f32, &f64)| f64::from(*a) * b;
                        let cosine: f64 = vectors[0].iter().zip(&vector).map(dot).sum();
                        if cosine < 0.99 {
                            return Err(format!("the peer's vector is another: {cosine}").into());
                        }
                    }
                }
            }
            let seconds = median(ours.into_iter());
            let flops = (encoder.flops_per_token() * texts * tokens) as f64;
            let arithmetic = flops / (ceiling.gflop_s(dtype) * 1e9);
            let memory = encoder.packed_bytes() as f64 / (ceiling.read_gb_s * 1e9);
            let mut figures = vec![
                ("us", (seconds * 1e6).into()),
                ("gflop_s", (flops / seconds / 1e9).into()),
                ("arithmetic_share", (arithmetic / seconds).into()),
                ("memory_share", (memory / seconds).into()),
            ];
            if let Some(peer) = &peer {
                let theirs = median(theirs.into_iter());
                if args.json {
                    figures.push(("peer", peer.name().into()));
                }
                figures.extend([
                    ("peer_us", (theirs * 1e6).into()),
                    ("peer_over_ours", (theirs / seconds).into()),
                ]);
            }
            report.row(&format!("{dtype} {texts} x {tokens} tokens"), &figures);
        }
    }
    Ok(())
}

/// Common words, each of which is one token to most tokenizers.
const WORDS: &str = "what is the best way to learn a new language when you have very little time \
                     and no money for a good teacher at home or in the city";

fn words_of(count: usize) -> String {
    let words: Vec<&str> = WORDS.split(' ').cycle().take(count).collect();
    words.join(" ")
}

/// A text of exactly so many tokens, frame included.
fn text_of(encoder: &SentenceEncoder, tokens: usize) -> Result<String, Box<dyn Error>> {
    for words in 0..tokens {
        let text = words_of(words);
        if encoder.tokens(&text)?.len() == tokens {
            return Ok(text);
        }
    }
    Err(format!(
        "no text of {tokens} tokens: at most {} are kept",
        encoder.max_tokens()
    )
    .into())
}
