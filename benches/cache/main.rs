//! What a cache costs when it hits, and when it does not; each row beside what it is made of.

mod exact;
mod mixed;
mod prompts;
mod semantic;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;
use llmserve_benches::{Report, Shape, embedded_model};

/// Hits, single flight, lookups.
#[derive(Parser)]
struct Args {
    /// Print one JSON object a row.
    #[arg(long)]
    json: bool,
    /// A folder with a sentence encoder such as all-MiniLM-L6-v2, to compare by meaning too.
    #[arg(long, value_name = "DIR")]
    minilm: Option<PathBuf>,
    /// The mixture around a model of this shape, with random weights, instead of the embedded one:
    /// smol135, llama1b.
    #[arg(long, value_name = "SHAPE")]
    shape: Option<String>,
    /// Requests of the mixture.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(20..))]
    requests: u32,
    /// Nothing but the mixture.
    #[arg(long)]
    mixture: bool,
    /// A tenth of the work: does it run at all?
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if !args.mixture {
        let mut report = Report::new("around a service that answers at once", args.json);
        exact::run(&mut report, args.quick)?;
        let mut report = Report::new("texts by meaning, 384 dimensions", args.json);
        semantic::run(&mut report, args.quick)?;
        let title = "prompts that begin alike, the embedded model's tokenizer";
        let mut report = Report::new(title, args.json);
        prompts::run(&mut report, args.quick)?;
    }
    let (name, model) = match &args.shape {
        None => ("the embedded model".to_owned(), embedded_model()),
        Some(name) => (format!("a model like {name}"), speaking(name)?),
    };
    let title = format!("a mixture of requests around {name}");
    let mut report = Report::new(&title, args.json);
    let (minilm, requests) = (args.minilm.as_deref(), args.requests as usize);
    mixed::run(&mut report, args.quick, minilm, &model, requests)
}

/// A model of a real shape that reads and writes: random weights, and the embedded model's
/// tokenizer.
fn speaking(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let shape = Shape::named(name).ok_or("--shape: smol135 or llama1b")?;
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("speaking");
    let folder = shape.folder(&parent)?;
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        std::fs::copy(embedded_model().join(file), folder.join(file))?;
    }
    Ok(folder)
}
