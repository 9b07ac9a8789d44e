//! Serving at real shapes: prefill and decode by batch, beside the machine's measured ceiling.
//!
//! Drives the engine's public streams and takes their times. Prefill is prompt tokens over the time
//! until every request has its first token; decode is the tokens after the first over the rest.
//! What must have been read and computed meanwhile comes from a record of the model's steps.
//!
//! `gb_s` counts weights once a step, with their padding and scales, and each sequence's keys and
//! values; `gflop_s` counts two operations for each weight and token and four for each dimension,
//! head and position that attention sees. The ceiling of a step is the longer of reading the one
//! and computing the other at the rates measured in the same run; a share above 1 means that a
//! part of the weights stayed in a cache between steps.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use llmserve::Sampling;
use llmserve::model::Ceiling;
use llmserve_benches::{
    Format, Marker, Observed, Phase, Point, Report, Roofline, Run, SubjectArgs, Workload, peak_rss,
    reset_peak_rss,
};

/// Prefill and decode speed by batch.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Prompt tokens of each request.
    #[arg(long, default_value_t = 128)]
    prompt_len: usize,
    /// Tokens each request generates; at least 2.
    #[arg(long, default_value_t = 64, value_parser = at_least_two)]
    gen_len: usize,
    /// Requests at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    batch: Vec<usize>,
    /// Runs of each batch, of which the best counts, for prefill and decode each.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Write a roofline drawing of the rows.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

fn at_least_two(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(len) if len >= 2 => Ok(len),
        Ok(_) => Err("the first token is prefill's: 2 or more".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    let subject = args.subject.subject()?;
    if args.subject.quick {
        (args.prompt_len, args.gen_len) = (32, 8);
    }
    let ceiling = subject.ceiling()?;
    let most = args.batch.iter().copied().max().unwrap_or(1);
    let tokens = most * (args.prompt_len + args.gen_len);
    let mut report = Report::new(
        &format!(
            "{}, {} prompt and {} generated tokens, {} threads; {}",
            subject.name,
            args.prompt_len,
            args.gen_len,
            ceiling.threads,
            ceilings(&ceiling, &args.subject.dtype)
        ),
        args.subject.json,
    );
    let mut points = Vec::new();
    for &format in &args.subject.dtype {
        // Another engine's memory, or the probe's, is not this one's.
        reset_peak_rss();
        let observed = subject.engine(format, most, tokens)?;
        report.note(&format!(
            "{}, loaded in {:.1} s",
            observed.engine.info().backend,
            observed.load_seconds
        ));
        let mut workload = Workload::new(1);
        // Once for warmth: pages touched, threads awake.
        run(&observed, &mut workload, 1, args.prompt_len, 2)?;
        for &batch in &args.batch {
            let mut best: Option<Best> = None;
            for _ in 0..args.rounds.max(1) {
                let run = run(
                    &observed,
                    &mut workload,
                    batch,
                    args.prompt_len,
                    args.gen_len,
                )?;
                let prefill = Phase {
                    seconds: run.first_token,
                    ..observed.phase(&ceiling, run.prefill())
                };
                let decode = Phase {
                    seconds: run.latency - run.first_token,
                    ..observed.phase(&ceiling, run.rest())
                };
                let this = Best {
                    prefill,
                    decode,
                    seconds: run.latency,
                };
                best = Some(best.map_or(this, |best| best.or(this)));
            }
            let Some(Best {
                prefill,
                decode,
                seconds,
            }) = best
            else {
                continue;
            };
            let prompt_tokens = (batch * args.prompt_len) as f64;
            let decoded = (batch * (args.gen_len - 1)) as f64;
            let all = (batch * (args.prompt_len + args.gen_len)) as f64;
            let dtype = format.dtype().to_string();
            report.row(
                &format!("{dtype} batch {batch}"),
                &[
                    ("shape", subject.name.as_str().into()),
                    ("dtype", dtype.as_str().into()),
                    ("batch", batch.into()),
                    ("prefill_tok_s", (prompt_tokens / prefill.seconds).into()),
                    ("decode_tok_s", (decoded / decode.seconds).into()),
                    ("total_tok_s", (all / seconds).into()),
                    ("peak_rss_bytes", peak_rss().into()),
                    ("gb_s", decode.gb_s().into()),
                    ("gflop_s", decode.gflop_s().into()),
                    ("ceiling_share", decode.ceiling_share().into()),
                    ("prefill_gflop_s", prefill.gflop_s().into()),
                    ("prefill_ceiling_share", prefill.ceiling_share().into()),
                ],
            );
            points.push(point(
                &dtype,
                format!("decode {batch}"),
                Marker::Disc,
                &decode,
            ));
            if batch == most {
                let label = format!("prefill {batch} × {}", args.prompt_len);
                points.push(point(&dtype, label, Marker::Square, &prefill));
            }
        }
    }
    if let Some(file) = &args.plot {
        let roofline = Roofline {
            title: format!(
                "{}, {} prompt and {} generated tokens, {} threads",
                subject.name, args.prompt_len, args.gen_len, ceiling.threads
            ),
            read_gb_s: ceiling.read_gb_s,
            ceilings: rates(&ceiling, &args.subject.dtype),
            points,
        };
        std::fs::write(file, roofline.svg())?;
    }
    Ok(())
}

/// The best of some runs, each part by itself.
#[derive(Clone, Copy)]
struct Best {
    prefill: Phase,
    decode: Phase,
    /// From the first step to the last.
    seconds: f64,
}

impl Best {
    fn or(self, other: Self) -> Self {
        // Prefill's steps may be cut differently from run to run: all of them count together.
        let prefill = if other.prefill.seconds < self.prefill.seconds {
            other.prefill
        } else {
            self.prefill
        };
        let decode = if other.decode.seconds < self.decode.seconds {
            other.decode
        } else {
            self.decode
        };
        Self {
            prefill,
            decode,
            seconds: self.seconds.min(other.seconds),
        }
    }
}

/// Serves `batch` random prompts together.
fn run(
    observed: &Observed,
    workload: &mut Workload,
    batch: usize,
    prompt_len: usize,
    gen_len: usize,
) -> Result<Run, llmserve::Error> {
    let vocab = observed.engine.info().vocab_size;
    let prompts = (0..batch).map(|_| workload.tokens(prompt_len, vocab));
    observed.run(prompts.collect(), gen_len, &Sampling::default())
}

fn point(series: &str, label: String, marker: Marker, phase: &Phase) -> Point {
    Point {
        series: series.to_owned(),
        label,
        marker,
        intensity: phase.intensity(),
        gflop_s: phase.gflop_s(),
    }
}

/// The arithmetic ceilings of some formats, those with the same rate once.
fn rates(ceiling: &Ceiling, formats: &[Format]) -> Vec<(String, f64)> {
    let mut rates: Vec<(String, f64)> = Vec::new();
    for format in formats {
        let rate = format.peak(ceiling) / 1e9;
        let name = format.dtype().to_string();
        match rates.iter_mut().find(|known| known.1 == rate) {
            Some((known, _)) if *known != name => *known = format!("{known}, {name}"),
            Some(_) => {}
            None => rates.push((name, rate)),
        }
    }
    rates
}

fn ceilings(ceiling: &Ceiling, formats: &[Format]) -> String {
    let mut text = format!("ceilings {:.1} GB/s", ceiling.read_gb_s);
    for (name, rate) in rates(ceiling, formats) {
        text += &format!(", {rate:.0} GFLOP/s {name}");
    }
    text
}
