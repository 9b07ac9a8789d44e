//! What a cache costs when it hits, and when it does not; each row beside what it is made of.

mod exact;

use std::error::Error;

use clap::Parser;
use llmserve_benches::Report;

/// Hits, single flight, lookups.
#[derive(Parser)]
struct Args {
    /// Print one JSON object a row.
    #[arg(long)]
    json: bool,
    /// A tenth of the work: does it run at all?
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut report = Report::new(
        "the cache on its own, around a service that answers at once",
        args.json,
    );
    exact::run(&mut report, args.quick)
}
