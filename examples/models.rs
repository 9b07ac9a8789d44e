//! Two models in the memory of one, loaded as they are asked for:
//! `cargo run --release --example models [-- --budget-mib 48 --rounds 3]`.
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use llmserve::cache::models::ModelCache;
use llmserve::{Folders, Generate, Loader, Request};

#[derive(Parser)]
struct Args {
    /// A folder of model folders. Default: the embedded models.
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Memory for models. Default: room for the largest, by its estimate and a quarter more.
    #[arg(long, value_name = "MIB")]
    budget_mib: Option<u64>,
    /// KV memory of each model.
    #[arg(long, value_name = "MIB", default_value_t = 8)]
    kv_mib: usize,
    /// How often each model is asked.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Keep packed weights beside each model, so that loading it again is a map.
    #[arg(long)]
    packed_cache: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let embedded = llmserve_examples::embedded_model();
    let dir = match &args.models {
        Some(dir) => dir.clone(),
        None => embedded.parent().ok_or("no folder of models")?.to_owned(),
    };
    let (kv, packed) = (args.kv_mib << 20, args.packed_cache);
    let folders = Folders::new().models_in(&dir)?.options(move |_, serve| {
        let serve = serve.kv_bytes(kv).max_num_seqs(16).max_batched_tokens(256);
        serve.packed_cache(packed)
    });
    let names = folders.names();
    let mut largest = 0;
    for name in &names {
        let bytes = folders.estimate(name)?;
        println!("{name}: about {} MiB", bytes >> 20);
        largest = bytes.max(largest);
    }
    let budget = match args.budget_mib {
        Some(mib) => mib << 20,
        None => largest + largest / 4,
    };
    println!("budget: {} MiB\n", budget >> 20);
    let models = ModelCache::builder(folders, budget).build()?;
    for round in 0..args.rounds {
        for name in &names {
            let before = models.stats();
            let began = Instant::now();
            let request = Request::text(format!("ACT {round}\n\nHAMLET\t")).max_tokens(16);
            // A model that was asked for a moment ago is there without a wait.
            let answer = models.generate(request.model(name)).wait()?;
            let stats = models.stats();
            let model = stats.model(name).ok_or("a model that was never heard of")?;
            println!(
                "{name:12} {:5.1} ms  {}  {} MiB of {} taken  {:?}",
                began.elapsed().as_secs_f64() * 1e3,
                match stats.loads > before.loads {
                    true => format!("loaded in {:?}", model.load_time.unwrap_or(Duration::ZERO)),
                    false => "was there".to_owned(),
                },
                stats.bytes >> 20,
                stats.budget >> 20,
                answer.text(),
            );
        }
    }
    let stats = models.stats();
    println!(
        "\n{} hits, {} waits, {} loads, {} evictions",
        stats.hits, stats.waits, stats.loads, stats.evictions
    );
    models.shutdown();
    Ok(())
}
