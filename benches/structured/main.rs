//! Answers of a given form: how many are not, what their masks cost, and what forced runs save.

mod forms;

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use llmserve::prelude::*;
use llmserve_benches::{Common, Report};
use serde_json::json;

use forms::Form;

/// Generations under JSON schemas, checked, beside free ones of the same lengths.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Generations.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Most tokens of each.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Sequences at once.
    #[arg(long, default_value_t = 32)]
    batch: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let count = if args.common.quick {
        args.count / 10
    } else {
        args.count
    };
    let title = format!("{count} generations, {} at once", args.batch);
    let mut report = Report::new(&title, args.common.json);
    let engine = || llmserve::serve(args.common.folder()).max_num_seqs(args.batch);
    let engine = || engine().scheduler(|scheduler| scheduler.max_queue(None));
    let mut lengths = Vec::with_capacity(count);
    let forms = Form::all()?;
    let draft = args.common.folder().with_file_name("bard-draft");
    // Logprobs have every token picked: the same answers without forced runs.
    for (name, picked, drafts) in [
        ("forced runs", false, false),
        ("every token picked", true, false),
        ("forced runs and drafts", false, true),
    ] {
        let mut builder = engine().max_intake(2 * count);
        if drafts {
            builder = builder.ngram().spec_depth(4);
            // A model with none beside it has what it repeats.
            if draft.is_dir() {
                builder = builder.draft(&draft);
            }
        }
        let engine = builder.build()?;
        let request = |number: usize| {
            let request =
                Request::text("HAMLET:\n").json_schema(forms[number % forms.len()].schema);
            let request = request.max_tokens(args.max_tokens).temperature(1.0);
            let request = request.seed(args.common.seed.wrapping_add(number as u64));
            if picked { request.logprobs(0) } else { request }
        };
        // Compiled before the clock runs.
        for number in 0..forms.len() {
            engine.generate(request(number).max_tokens(1)).wait()?;
        }
        let before = engine.stats();
        let began = Instant::now();
        let streams: Vec<_> = (0..count).map(|n| engine.generate(request(n))).collect();
        let (mut ended, mut invalid) = (0, 0);
        lengths.clear();
        for (number, stream) in streams.into_iter().enumerate() {
            let response = stream.wait()?;
            lengths.push(response.ids().len());
            if response.choices[0].reason == Some(FinishReason::Length) {
                continue;
            }
            ended += 1;
            if !forms[number % forms.len()].accepts(response.text()) {
                invalid += 1;
                eprintln!("invalid: {:?}", response.text());
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let stats = engine.stats();
        let tokens = (stats.generation_tokens - before.generation_tokens) as f64;
        let (masks, mask_seconds) = (
            stats.masks - before.masks,
            stats.mask_seconds - before.mask_seconds,
        );
        let waited = stats.mask_wait_seconds - before.mask_wait_seconds;
        report.row(
            name,
            &[
                ("ended", json!(ended)),
                ("invalid", json!(invalid)),
                ("tokens/s", json!(tokens / seconds)),
                (
                    "forced share",
                    json!((stats.forced_tokens - before.forced_tokens) as f64 / tokens),
                ),
                ("steps", json!(stats.steps - before.steps)),
                ("mask us", json!(mask_seconds / masks as f64 * 1e6)),
                ("waited share", json!(waited / seconds)),
                (
                    "drafts accepted",
                    json!(stats.spec_accepted_tokens - before.spec_accepted_tokens),
                ),
            ],
        );
    }
    let engine = engine().max_intake(count + 1).build()?;
    let began = Instant::now();
    let free = lengths.iter().enumerate().map(|(number, length)| {
        let request = Request::text("HAMLET:\n")
            .max_tokens(*length)
            .ignore_eos(true);
        let request = request.temperature(1.0).seed(number as u64);
        engine.generate(request)
    });
    for stream in free.collect::<Vec<_>>() {
        stream.wait()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let stats = engine.stats();
    report.row(
        "free, of the same lengths",
        &[
            ("ended", json!(0)),
            ("invalid", json!(0)),
            ("tokens/s", json!(stats.generation_tokens as f64 / seconds)),
            ("forced share", json!(0.0)),
            ("steps", json!(stats.steps)),
            ("mask us", json!(0.0)),
            ("waited share", json!(0.0)),
            ("drafts accepted", json!(0)),
        ],
    );
    Ok(())
}
