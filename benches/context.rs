//! What length costs: decode and prefill by context, and sequences of mixed lengths together.
//!
//! Decode should cost a fixed part and a part that grows with the context and no faster: a line
//! is fitted, and its slope told as bytes of keys and values a second. Prefill's attention grows
//! with the square of the length, so its tokens a second must fall; `corrected` is the time that a
//! prompt would take with its products with weights at the pace of the shortest prompt and its
//! attention at the ceiling, over the time it took. Mixed lengths are served beside equal ones of
//! the same total: `over_equal` says what the mixture costs, and `work_over_equal` what of it is
//! work, by the least time of each.

use std::error::Error;
use std::ops::Range;

use clap::Parser;
use llmserve::Sampling;
use llmserve::model::Ceiling;
use llmserve_benches::{Line, Observed, Report, Run, Subject, SubjectArgs, Workload, median};

/// Decode and prefill by context.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Contexts to decode at, as far as the model reaches.
    #[arg(long, value_delimiter = ',', default_value = "512,1024,2048,4096,8192")]
    contexts: Vec<usize>,
    /// Prompt lengths, as far as the model reaches; the shortest sets the pace of the others.
    #[arg(long, value_delimiter = ',', default_value = "128,512,2048,8192")]
    prompts: Vec<usize>,
    /// Tokens generated at each context.
    #[arg(long, default_value_t = 24)]
    gen_len: usize,
    /// Runs of everything, of which the best counts.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Sequences of mixed lengths; 0 leaves them out.
    #[arg(long, default_value_t = 64)]
    sequences: usize,
    /// The shortest of them, in tokens.
    #[arg(long, default_value_t = 16)]
    shortest: usize,
    /// The longest of them; lengths between are spaced evenly in their logarithm.
    #[arg(long, default_value_t = 4096)]
    longest: usize,
}

/// Steps of the whole batch that are measured with mixed lengths.
const MIXED_STEPS: usize = 24;
/// Most tokens the engine computes in a step.
const BUDGET: usize = 2048;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    let subject = args.subject.subject()?;
    if args.subject.quick {
        args.contexts = vec![64, 128, 256];
        args.prompts = vec![16, 64, 256];
        (args.gen_len, args.sequences, args.longest) = (8, 8, 128);
    }
    let ceiling = subject.ceiling()?;
    for &format in &args.subject.dtype {
        let reach = subject.config.max_position;
        let mut lengths = spaced(args.sequences, args.shortest..args.longest);
        let total: usize = lengths.iter().sum();
        let gen_mixed = generated(total, args.sequences);
        for len in &mut lengths {
            *len = (*len).clamp(1, reach.saturating_sub(gen_mixed).max(1));
        }
        let tokens = reach.max(total + args.sequences * gen_mixed);
        let observed = subject.engine(format, args.sequences.max(1), tokens)?;
        let bench = Bench {
            args: &args,
            subject: &subject,
            ceiling: &ceiling,
            observed: &observed,
            dtype: format.dtype().to_string(),
            title: format!(
                "{}, {}; ceilings {:.1} GB/s, {:.0} GFLOP/s",
                subject.name,
                observed.engine.info().backend,
                ceiling.read_gb_s,
                format.peak(&ceiling) / 1e9
            ),
        };
        bench.by_length()?;
        if args.sequences > 0 {
            bench.mixed(lengths, gen_mixed)?;
        }
    }
    Ok(())
}

/// Tokens that each of some sequences must generate so that, once all their prompts are computed,
/// all of them still decode for [`MIXED_STEPS`] steps: the first does so while others wait.
fn generated(total: usize, sequences: usize) -> usize {
    let chunks = total.div_ceil(BUDGET.saturating_sub(sequences).max(1));
    // A sequence's first step may hold few prompts: some had not arrived.
    chunks + MIXED_STEPS + 3
}

/// `count` lengths of a range, its ends included, evenly spaced in their logarithm.
fn spaced(count: usize, range: Range<usize>) -> Vec<usize> {
    let (low, high) = (range.start as f64, range.end as f64);
    (0..count)
        .map(|i| i as f64 / count.saturating_sub(1).max(1) as f64)
        .map(|share| (low * (high / low).powf(share)).round() as usize)
        .collect()
}

struct Bench<'a> {
    args: &'a Args,
    subject: &'a Subject,
    ceiling: &'a Ceiling,
    observed: &'a Observed,
    dtype: String,
    title: String,
}

/// One prompt alone.
struct Alone {
    prompt: usize,
    /// Mean of the contexts decoded at.
    context: f64,
    decode_seconds: f64,
    prefill_seconds: f64,
    attention_flops: f64,
    /// The least seconds for them.
    attention_seconds: f64,
}

impl Bench<'_> {
    fn run(&self, lengths: &[usize], gen_len: usize) -> Result<Run, llmserve::Error> {
        let vocab = self.observed.engine.info().vocab_size;
        let mut workload = Workload::new(1);
        let prompts = lengths.iter().map(|&len| workload.tokens(len, vocab));
        self.observed
            .run(prompts.collect(), gen_len, &Sampling::default())
    }

    /// A prompt alone, each figure the best of its rounds.
    fn alone(&self, prompt: usize) -> Result<Alone, llmserve::Error> {
        let mut best = self.alone_once(prompt)?;
        for _ in 1..self.args.rounds {
            let this = self.alone_once(prompt)?;
            best.decode_seconds = best.decode_seconds.min(this.decode_seconds);
            best.prefill_seconds = best.prefill_seconds.min(this.prefill_seconds);
        }
        Ok(best)
    }

    fn alone_once(&self, prompt: usize) -> Result<Alone, llmserve::Error> {
        let run = self.run(&[prompt], self.args.gen_len)?;
        let prefill = self.observed.phase(self.ceiling, run.prefill());
        let steps: Vec<_> = run.decode().collect();
        let visible: usize = steps.iter().map(|(step, _)| step.visible).sum();
        let context = visible as f64 / steps.len().max(1) as f64;
        let cost = &self.observed.cost;
        Ok(Alone {
            prompt,
            context,
            // A step that something else interrupted says nothing of the context.
            decode_seconds: median(steps.iter().map(|(_, seconds)| *seconds)),
            prefill_seconds: prefill.seconds,
            attention_flops: prefill.work.attention_flops,
            attention_seconds: cost.attention_seconds(&prefill.work, self.ceiling),
        })
    }

    fn by_length(&self) -> Result<(), Box<dyn Error>> {
        // Prompt and answer fit the model together.
        let reach = self.subject.config.max_position;
        let reach = reach.saturating_sub(self.args.gen_len).max(1);
        let clamped = |lengths: &[usize]| {
            let mut lengths: Vec<_> = lengths.iter().map(|&len| len.min(reach)).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths
        };
        let (contexts, prompts) = (clamped(&self.args.contexts), clamped(&self.args.prompts));
        let mut lengths = [contexts.clone(), prompts.clone()].concat();
        lengths.sort_unstable();
        lengths.dedup();
        // Once for warmth: pages touched, threads awake.
        self.run(&lengths[..lengths.len().min(1)], 2)?;
        let runs = lengths
            .iter()
            .map(|&len| self.alone(len))
            .collect::<Result<Vec<_>, _>>()?;
        let of = |wanted: &[usize]| -> Vec<&Alone> {
            runs.iter()
                .filter(|run| wanted.contains(&run.prompt))
                .collect()
        };
        self.decode(&of(&contexts));
        self.prefill(&of(&prompts));
        Ok(())
    }

    fn decode(&self, runs: &[&Alone]) {
        let points: Vec<_> = runs.iter().map(|r| (r.context, r.decode_seconds)).collect();
        let line = Line::through(&points);
        let mut report = Report::new(
            &format!("decode by context: {}", self.title),
            self.args.subject.json,
        );
        for run in runs {
            let fitted = line.map_or(f64::NAN, |l| l.intercept + l.slope * run.context);
            report.row(
                &format!("decode at {:.0}", run.context),
                &[
                    ("shape", self.subject.name.as_str().into()),
                    ("dtype", self.dtype.as_str().into()),
                    ("context", run.context.into()),
                    ("ms_per_token", (run.decode_seconds * 1e3).into()),
                    ("line_ms", (fitted * 1e3).into()),
                ],
            );
        }
        let Some(line) = line else {
            return;
        };
        // A line that does not rise is noise, and tells of no rate.
        let kv_gb_s = self.observed.cost.kv_bytes() / line.slope / 1e9;
        let kv_gb_s = (line.slope > 0.0).then_some(kv_gb_s);
        let kv_read_share = kv_gb_s.map(|rate| rate / self.ceiling.read_gb_s);
        let mut report = Report::new("", self.args.subject.json);
        report.row(
            "decode line",
            &[
                ("shape", self.subject.name.as_str().into()),
                ("dtype", self.dtype.as_str().into()),
                ("intercept_ms", (line.intercept * 1e3).into()),
                ("us_per_context_token", (line.slope * 1e6).into()),
                ("worst_residual_share", line.worst_residual.into()),
                ("kv_gb_s", kv_gb_s.into()),
                ("kv_read_share", kv_read_share.into()),
            ],
        );
    }

    fn prefill(&self, runs: &[&Alone]) {
        let mut report = Report::new(
            &format!("\nprefill by length: {}", self.title),
            self.args.subject.json,
        );
        let pace = runs.first().map_or(f64::NAN, |run| {
            (run.prefill_seconds - run.attention_seconds) / run.prompt as f64
        });
        for run in runs {
            let linear = pace * run.prompt as f64;
            // What attention took if products with weights kept the pace; nothing that can be told
            // where a prompt is so short that they did not.
            let attention = run.prefill_seconds - linear;
            let attention_rate = run.attention_flops / attention / 1e9;
            let corrected = (linear + run.attention_seconds) / run.prefill_seconds;
            report.row(
                &format!("prefill of {}", run.prompt),
                &[
                    ("shape", self.subject.name.as_str().into()),
                    ("dtype", self.dtype.as_str().into()),
                    ("tokens", run.prompt.into()),
                    ("seconds", run.prefill_seconds.into()),
                    ("tok_s", (run.prompt as f64 / run.prefill_seconds).into()),
                    ("attention_gflop", (run.attention_flops / 1e9).into()),
                    (
                        "attention_gflop_s",
                        (attention > 0.0).then_some(attention_rate).into(),
                    ),
                    ("corrected", corrected.into()),
                ],
            );
        }
    }

    fn mixed(&self, mut mixed: Vec<usize>, gen_len: usize) -> Result<(), llmserve::Error> {
        let (count, total) = (mixed.len(), mixed.iter().sum::<usize>());
        let equal: Vec<_> = (0..count)
            .map(|i| total * (i + 1) / count - total * i / count)
            .collect();
        // In no order of length.
        let mut workload = Workload::new(2);
        for i in (1..count).rev() {
            mixed.swap(i, workload.uniform(0, i));
        }
        let mut report = Report::new(
            &format!(
                "\n{count} sequences of {total} prompt tokens together, {gen_len} generated by \
                 each; mixed lengths are {} to {}",
                self.args.shortest, self.args.longest
            ),
            self.args.subject.json,
        );
        let kinds = [("equal lengths", equal), ("mixed lengths", mixed)];
        let mut best = [Together::default(); 2];
        for round in 0..self.args.rounds.max(1) {
            // In turns, so that both meet what else the machine does.
            for ((_, lengths), best) in kinds.iter().zip(&mut best) {
                let this = self.together(lengths, gen_len)?;
                *best = if round == 0 { this } else { best.or(this) };
            }
        }
        let equal = best[0];
        for ((name, _), this) in kinds.iter().zip(best) {
            report.row(
                name,
                &[
                    ("shape", self.subject.name.as_str().into()),
                    ("dtype", self.dtype.as_str().into()),
                    ("decode_ms", (this.decode_seconds * 1e3).into()),
                    (
                        "decode_over_equal",
                        (this.decode_seconds / equal.decode_seconds).into(),
                    ),
                    ("total_s", this.seconds.into()),
                    ("total_over_equal", (this.seconds / equal.seconds).into()),
                    (
                        "work_over_equal",
                        (this.least_seconds / equal.least_seconds).into(),
                    ),
                ],
            );
        }
        Ok(())
    }

    fn together(&self, lengths: &[usize], gen_len: usize) -> Result<Together, llmserve::Error> {
        let run = self.run(lengths, gen_len)?;
        let all = self.observed.phase(self.ceiling, run.all());
        Ok(Together {
            seconds: all.seconds,
            least_seconds: all.least_seconds,
            decode_seconds: median(run.decode().map(|(_, seconds)| seconds)),
        })
    }
}

/// Sequences served together.
#[derive(Clone, Copy, Default)]
struct Together {
    /// From the first step to the last.
    seconds: f64,
    /// The least that takes.
    least_seconds: f64,
    /// The median step that decodes for all.
    decode_seconds: f64,
}

impl Together {
    fn or(self, other: Self) -> Self {
        Self {
            seconds: self.seconds.min(other.seconds),
            least_seconds: self.least_seconds.min(other.least_seconds),
            decode_seconds: self.decode_seconds.min(other.decode_seconds),
        }
    }
}
