//! The engine's own share of a decode step: planning, sampling, events; everything but the model.
//!
//! A step lasts until the next one is submitted. What of it passes inside the model, in `submit`
//! and in its logits, is the model's; the rest is the host's; both are medians over the steps. A model of a named shape has random
//! weights, and so nearly even odds for every token: for top-p the worst there is, since it keeps
//! almost the whole vocabulary.

use std::error::Error;

use clap::Parser;
use llmserve::Sampling;
use llmserve_benches::{Report, Run, Step, SubjectArgs, Workload, median};

/// Host time in decode steps, by sampling.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Prompt tokens of each request.
    #[arg(long, default_value_t = 32)]
    prompt_len: usize,
    /// Tokens each request generates.
    #[arg(long, default_value_t = 48)]
    gen_len: usize,
    /// Requests at once.
    #[arg(long, value_delimiter = ',', default_value = "32")]
    batch: Vec<usize>,
    /// Runs, of which the one with the quickest steps counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    let subject = args.subject.subject()?;
    if args.subject.quick {
        (args.prompt_len, args.gen_len, args.rounds) = (8, 12, 1);
    }
    let most = args.batch.iter().copied().max().unwrap_or(1);
    let mut report = Report::new(
        &format!(
            "{}, {} prompt and {} generated tokens",
            subject.name, args.prompt_len, args.gen_len
        ),
        args.subject.json,
    );
    for &format in &args.subject.dtype {
        let observed = subject.engine(format, most, most * (args.prompt_len + args.gen_len))?;
        let vocab = observed.engine.info().vocab_size;
        for &batch in &args.batch {
            for (name, sampling) in samplings() {
                let mut best: Option<Medians> = None;
                for round in 0..args.rounds.max(1) {
                    let mut workload = Workload::new(round as u64 + 1);
                    let prompts = (0..batch).map(|_| workload.tokens(args.prompt_len, vocab));
                    let run = observed.run(prompts.collect(), args.gen_len, &sampling)?;
                    let medians = Medians::of(&run);
                    if best.is_none_or(|best| medians.step_ms < best.step_ms) {
                        best = Some(medians);
                    }
                }
                let Some(medians) = best else { continue };
                report.row(
                    &format!("{} {name} batch {batch}", format.dtype()),
                    &[
                        ("shape", subject.name.as_str().into()),
                        ("dtype", format.dtype().to_string().into()),
                        ("sampling", name.into()),
                        ("batch", batch.into()),
                        ("step_ms", medians.step_ms.into()),
                        ("host_ms", medians.host_ms.into()),
                        ("host_share", (medians.host_ms / medians.step_ms).into()),
                    ],
                );
            }
        }
    }
    Ok(())
}

/// Medians over a run's decode steps: a step that another process interrupted tells nothing.
#[derive(Clone, Copy)]
struct Medians {
    /// Of a step's time.
    step_ms: f64,
    /// Of what of it did not pass inside the model.
    host_ms: f64,
}

impl Medians {
    fn of(run: &Run) -> Self {
        let mut steps: Vec<_> = run.decode().collect();
        // Nothing follows the last one, so its end is not known.
        steps.pop();
        let of = |time: &dyn Fn(&(&Step, f64)) -> f64| 1e3 * median(steps.iter().map(time));
        Self {
            step_ms: of(&|(_, seconds)| *seconds),
            host_ms: of(&|(step, seconds)| seconds - step.inside.as_secs_f64()),
        }
    }
}

/// Ways to pick a token, by name. Noise is drawn from the engine's fixed seed.
fn samplings() -> [(&'static str, Sampling); 4] {
    let mut top_k = Sampling::default();
    top_k.temperature = 0.8;
    top_k.top_k = Some(40);
    let mut plain = Sampling::default();
    plain.temperature = 1.0;
    let mut top_p = plain.clone();
    top_p.top_p = 0.95;
    [
        ("greedy", Sampling::default()),
        ("top-k 40", top_k),
        ("temperature 1", plain),
        ("top-p 0.95", top_p),
    ]
}
