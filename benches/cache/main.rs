//! What a cache costs when it hits, and when it does not; each row beside what it is made of.

mod exact;
mod mixed;
mod semantic;

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use llmserve_benches::Report;

/// Hits, single flight, lookups.
#[derive(Parser)]
struct Args {
    /// Print one JSON object a row.
    #[arg(long)]
    json: bool,
    /// A folder with a sentence encoder such as all-MiniLM-L6-v2, to compare by meaning too.
    #[arg(long, value_name = "DIR")]
    minilm: Option<PathBuf>,
    /// A tenth of the work: does it run at all?
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut report = Report::new("around a service that answers at once", args.json);
    exact::run(&mut report, args.quick)?;
    let mut report = Report::new("texts by meaning, 384 dimensions", args.json);
    semantic::run(&mut report, args.quick)?;
    let mut report = Report::new("a mixture of requests around the embedded model", args.json);
    mixed::run(&mut report, args.quick, args.minilm.as_ref())
}
