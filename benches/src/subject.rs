//! What is measured: a model of a real shape behind an engine whose steps are recorded.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use llmserve::kv::PagedKv;
use llmserve::model::{Ceiling, CpuOptions, DecoderConfig, Kernels, ModelFolder, physical_cores};
use llmserve::prelude::*;
use llmserve::sched::ContinuousScheduler;
use llmserve::{IdentityRoot, Model, Sampling, ServeError, TokenId};

use crate::{Cost, Format, Phase, Run, Shape, Step, StepLog, TimedModel, embedded_model};

/// Tokens of a KV block.
const BLOCK_SIZE: usize = 16;

/// Flags of the benches that take a shape.
#[derive(Args, Clone, Debug)]
pub struct SubjectArgs {
    /// `smol135`, `llama1b`, or a model folder.
    #[arg(long, default_value = "smol135", value_name = "smol135|llama1b|DIR")]
    pub shape: String,
    /// How weights are stored; several are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    pub dtype: Vec<Format>,
    /// Threads. Default: the physical cores.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Where models of a named shape are made and kept.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/shapes"))]
    pub shapes_dir: PathBuf,
    /// Print one JSON object a row.
    #[arg(long)]
    pub json: bool,
    /// The embedded model and few tokens: does it run at all?
    #[arg(long)]
    pub quick: bool,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A model's folder and the threads it is to run on.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The shape's name, or the folder's path.
    pub name: String,
    /// The model's sizes.
    pub config: DecoderConfig,
    folder: PathBuf,
    threads: usize,
}

impl SubjectArgs {
    /// The model asked for, made where it is a named shape.
    ///
    /// # Errors
    /// What the file system or the folder's files say.
    pub fn subject(&self) -> Result<Subject, Box<dyn Error>> {
        let (name, folder) = if self.quick {
            ("bard-2m".to_owned(), embedded_model())
        } else {
            let folder = match Shape::named(&self.shape) {
                Some(shape) => shape.folder(&self.shapes_dir)?,
                None => PathBuf::from(&self.shape),
            };
            (self.shape.clone(), folder)
        };
        Ok(Subject {
            name,
            config: ModelFolder::open(&folder)?.config,
            folder,
            threads: self.threads.unwrap_or_else(physical_cores),
        })
    }
}

impl Subject {
    /// What the machine can do at best on the subject's threads.
    ///
    /// # Errors
    /// As [`Ceiling::measure`].
    pub fn ceiling(&self) -> Result<Ceiling, llmserve::model::LoadError> {
        Ceiling::measure(Kernels::detect(), self.threads)
    }

    /// An engine for at most `sequences` at once, which need no more than `tokens` positions of
    /// KV together. Prefixes are not cached, so that every prompt is computed.
    ///
    /// # Errors
    /// As [`llmserve::Serve::build`].
    pub fn engine(
        &self,
        format: Format,
        sequences: usize,
        tokens: usize,
    ) -> Result<Observed, ServeError> {
        let began = Instant::now();
        let options = CpuOptions {
            dtype: format.dtype(),
            threads: Some(self.threads),
            name: Some(self.name.clone()),
            ..CpuOptions::default()
        };
        let loaded = ModelFolder::load(&self.folder, options)?;
        let info = loaded.model.info();
        let group = &info.kv.groups[0];
        let cost = Cost::new(&self.config, format, group.bytes_per_token);
        // Each sequence's last block may be part full, and the scheduler keeps a hundredth free.
        let blocks = tokens.div_ceil(BLOCK_SIZE) + sequences;
        let kv = PagedKv::builder()
            .blocks(blocks + blocks.div_ceil(50))
            .block_size(BLOCK_SIZE)
            .root(IdentityRoot::new(
                info.fingerprint,
                &group.layout,
                BLOCK_SIZE,
            ))
            .prefix_caching(false)
            .build()?;
        let scheduler = ContinuousScheduler::builder()
            .max_num_seqs(sequences)
            .build()?;
        let model = TimedModel::new(loaded.model);
        let log = model.log();
        let mut builder = Engine::builder(model).kv(kv).scheduler(scheduler).seed(1);
        if let Some(tokenizer) = loaded.tokenizer {
            builder = builder.tokenizer(tokenizer);
        }
        Ok(Observed {
            engine: builder.build()?,
            cost,
            load_seconds: began.elapsed().as_secs_f64(),
            log,
        })
    }
}

/// An engine, what its steps cost, and a record of them.
pub struct Observed {
    /// The engine.
    pub engine: Engine,
    /// What its steps cost.
    pub cost: Cost,
    /// How long it took to load and pack the model.
    pub load_seconds: f64,
    log: StepLog,
}

impl Observed {
    /// Serves `prompts` together, each until it has generated `gen_len` tokens.
    ///
    /// # Errors
    /// The first error of a stream.
    pub fn run(
        &self,
        prompts: Vec<Vec<TokenId>>,
        gen_len: usize,
        sampling: &Sampling,
    ) -> Result<Run, llmserve::Error> {
        self.log.take();
        let batch = prompts.len();
        let streams: Vec<_> = prompts
            .into_iter()
            .map(|prompt| {
                let request = Request::tokens(prompt)
                    .sampling(sampling.clone())
                    .max_tokens(gen_len)
                    .ignore_eos(true);
                self.engine.generate(request)
            })
            .collect();
        let (mut first_token, mut latency) = (0f64, 0f64);
        for (_, event) in merge(streams) {
            if let Event::Finished(finished) = event? {
                let timings = finished.timings;
                first_token = first_token.max(timings.time_to_first_token.as_secs_f64());
                latency = latency.max(timings.latency.as_secs_f64());
            }
        }
        Ok(Run {
            batch,
            steps: self.log.take(),
            first_token,
            latency,
        })
    }

    /// Adds up what steps cost and how long they took.
    pub fn phase<'a>(
        &self,
        ceiling: &Ceiling,
        steps: impl Iterator<Item = (&'a Step, f64)>,
    ) -> Phase {
        let mut phase = Phase::default();
        for (step, seconds) in steps {
            let work = self.cost.work(step);
            phase.seconds += seconds;
            phase.steps += 1;
            phase.tokens += step.tokens;
            phase.least_seconds += self.cost.least_seconds(&work, ceiling);
            phase.work += work;
        }
        phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workload;

    #[test]
    fn every_token_of_a_run_is_in_one_step_however_prompts_are_cut() -> Result<(), Box<dyn Error>> {
        let folder = embedded_model();
        let subject = Subject {
            name: "embedded".to_owned(),
            config: ModelFolder::open(&folder)?.config,
            folder,
            threads: 2,
        };
        // More prompt tokens than a step's budget: some are cut, and some decode beside prompts.
        let (count, len, gen_len) = (5, 500, 9);
        let observed = subject.engine(Format::Bf16, count, count * (len + gen_len))?;
        let vocab = observed.engine.info().vocab_size;
        let mut workload = Workload::new(1);
        for _ in 0..2 {
            let prompts = (0..count).map(|_| workload.tokens(len, vocab)).collect();
            let run = observed.run(prompts, gen_len, &Sampling::default())?;
            // The last token generated is never computed.
            let computed = len + gen_len - 1;
            let sum = |of: fn(&Step) -> usize| run.steps.iter().map(of).sum::<usize>();
            assert_eq!(sum(|step| step.tokens), count * computed);
            assert_eq!(sum(|step| step.logits), count * gen_len);
            assert_eq!(
                sum(|step| step.visible),
                count * computed * (computed + 1) / 2
            );
            assert!(run.prefill().count() >= 2);
            assert!(run.prefill().count() + run.decode().count() <= run.steps.len());
            let prefilled: usize = run.prefill().map(|(step, _)| step.tokens).sum();
            assert!(prefilled >= count * len);
        }
        assert_eq!(observed.engine.stats().preemptions, 0);
        Ok(())
    }
}
