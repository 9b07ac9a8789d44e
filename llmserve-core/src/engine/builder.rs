//! Putting an engine together.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::compiling::{Compiling, Feeder, Queue};
use super::core::{Buffers, Core, EventListener};
use super::deadlines::Deadlines;
use super::grammars::{DEFAULT_KEPT, Grammars};
use super::instruments::Instruments;
use super::intake::{Lane, LastLane, Limits};
use super::masks::{self, MaskThreads};
use super::prefixes::Prefixes;
use super::sequences::Sequences;
use super::speculate::Speculator;
use super::{Engine, EngineStats, Handle, Shared};
use crate::contract::clock::{Clock, SystemClock};
use crate::contract::grammar::GrammarCompiler;
use crate::contract::kv::{BlockEvent, KvManager};
use crate::contract::model::{Model, ModelError, StepLimits};
use crate::contract::proposer::{ProposerLimits, Speculation};
use crate::contract::scheduler::Scheduler;
use crate::contract::tokenizer::Tokenizer;
use crate::metrics::{GuardedRecorder, NoopRecorder, Recorder};
use crate::sync::Ordering;

/// Requests that may be on their way to the engine thread, unless said otherwise.
const DEFAULT_MAX_INTAKE: usize = 16_384;

/// Why an engine could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A part without which there is no engine.
    #[error("an engine needs a {0}: give it with EngineBuilder::{0}")]
    MissingPart(&'static str),
    /// The KV manager serves another number of groups than the model has, or there are none.
    #[error("the model has {model} KV groups, the KV manager serves {manager}")]
    KvGroups {
        /// Groups of the model.
        model: usize,
        /// Groups of the manager.
        manager: usize,
    },
    /// The cache cannot hold a sequence of two tokens.
    #[error("a sequence may have at most {max_len} tokens, by {limited_by}: at least 2 are needed")]
    NoRoom {
        /// The most tokens of a sequence.
        max_len: usize,
        /// What limits it.
        limited_by: String,
    },
    /// The model could not make its pages or buffers.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine is to speculate and cannot.
    #[error("speculation: {0}")]
    Speculation(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Builds an [`Engine`] from parts. KV manager and scheduler are required.
pub struct EngineBuilder {
    model: Box<dyn Model>,
    kv: Option<Box<dyn KvManager>>,
    scheduler: Option<Box<dyn Scheduler>>,
    tokenizer: Option<Arc<dyn Tokenizer>>,
    grammars: Option<Arc<dyn GrammarCompiler>>,
    grammars_kept: usize,
    mask_threads: usize,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    listener: Option<EventListener>,
    seed: Option<u64>,
    max_intake: usize,
    speculation: Option<Speculation>,
}

impl EngineBuilder {
    pub(super) fn new(model: Box<dyn Model>) -> Self {
        Self {
            model,
            kv: None,
            scheduler: None,
            tokenizer: None,
            grammars: None,
            grammars_kept: DEFAULT_KEPT,
            mask_threads: masks::DEFAULT_THREADS,
            clock: Arc::new(SystemClock::new()),
            recorder: Arc::new(NoopRecorder),
            listener: None,
            seed: None,
            max_intake: DEFAULT_MAX_INTAKE,
            speculation: None,
        }
    }

    /// Who owns the blocks.
    pub fn kv(mut self, kv: impl KvManager + 'static) -> Self {
        self.kv = Some(Box::new(kv));
        self
    }

    /// Who decides what each step computes.
    pub fn scheduler(mut self, scheduler: impl Scheduler + 'static) -> Self {
        self.scheduler = Some(Box::new(scheduler));
        self
    }

    /// Text to tokens and back. Without one the engine serves token ids.
    pub fn tokenizer(mut self, tokenizer: Arc<dyn Tokenizer>) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// Who compiles the constraints of requests that want answers of a given form. Without one
    /// such requests are refused.
    pub fn grammars(mut self, compiler: Arc<dyn GrammarCompiler>) -> Self {
        self.grammars = Some(compiler);
        self
    }

    /// Most constraints remembered, and as many that were refused; 64 by default. The least recently
    /// used of the tenant that has the most of them is forgotten first.
    pub fn grammars_kept(mut self, constraints: usize) -> Self {
        self.grammars_kept = constraints;
        self
    }

    /// Threads that compute masks of grammars while the model computes; 1 by default, and none
    /// where there is no compiler. The engine's own thread helps when the model is done first, and
    /// does it all with 0.
    pub fn mask_threads(mut self, threads: usize) -> Self {
        self.mask_threads = threads;
        self
    }

    /// Where time comes from; the machine's monotonic clock by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where metrics go; nowhere by default. One that panics is not heard, and stops nothing.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Arc::new(GuardedRecorder::new(recorder));
        self
    }

    /// Who listens to the KV manager's block events, on the engine's thread: quick.
    pub fn on_block_events(mut self, listener: impl FnMut(&[BlockEvent]) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Where the seeds of requests without one come from; drawn from the system by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Most requests on their way to the engine thread, being encoded or waiting for the end of a
    /// step, before new ones are refused; 16,384 by default. Half of them may wait for grammars of
    /// one tenant's new constraints. Those beyond are the scheduler's, which has a limit of its own.
    pub fn max_intake(mut self, requests: usize) -> Self {
        self.max_intake = requests;
        self
    }

    /// Who drafts tokens, how many, and how they are verified; nobody by default.
    pub fn speculative(mut self, speculation: Speculation) -> Self {
        self.speculation = Some(speculation);
        self
    }

    /// Checks that the parts fit, prepares the model and starts the threads.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(self) -> Result<Engine, BuildError> {
        let Self {
            mut model,
            kv,
            scheduler,
            tokenizer,
            grammars,
            clock,
            recorder,
            listener,
            mut speculation,
            ..
        } = self;
        let kv = kv.ok_or(BuildError::MissingPart("kv"))?;
        let scheduler = scheduler.ok_or(BuildError::MissingPart("scheduler"))?;
        let layout = kv.layout().clone();
        let groups = (model.info().kv.groups.len(), layout.blocks.len());
        if groups.0 != groups.1 || groups.0 == 0 {
            return Err(BuildError::KvGroups {
                model: groups.0,
                manager: groups.1,
            });
        }
        let (context, capacity) = (model.info().max_context, layout.capacity_tokens());
        let max_len = context.min(capacity);
        let limited_by = if context <= capacity {
            format!("the model's context of {context} tokens")
        } else {
            format!(
                "a KV cache of {} blocks of {}",
                layout.blocks[0], layout.block_size
            )
        };
        if max_len < 2 {
            return Err(BuildError::NoRoom {
                max_len,
                limited_by,
            });
        }
        let tokens = scheduler.max_batched_tokens();
        let rows = scheduler.max_num_seqs().min(tokens);
        let mut logits = rows;
        if let Some(speculation) = &mut speculation {
            if !scheduler.plans_drafts() {
                return Err(BuildError::Speculation(
                    "the scheduler plans no drafts".to_owned(),
                ));
            }
            let depth = speculation.most().map_err(BuildError::Speculation)?;
            logits = rows.saturating_mul(1 + depth).min(tokens);
            let limits = ProposerLimits {
                sequences: scheduler.max_num_seqs(),
                max_len,
                depth,
            };
            let prepared = speculation.proposer.prepare(model.info(), limits);
            prepared.map_err(BuildError::Speculation)?;
        }
        let limits = StepLimits {
            tokens,
            rows,
            logits,
        };
        model.prepare(&layout, limits)?;

        let drafting = speculation.as_ref().map(|s| s.proposer.memory_bytes());
        let memory_bytes = model.memory_bytes().saturating_add(drafting.unwrap_or(0));
        let info = model.info().clone();
        tracing::info!(
            model = %info.name,
            backend = %info.backend,
            blocks = layout.blocks[0],
            block_size = layout.block_size,
            max_batched_tokens = tokens,
            max_num_seqs = scheduler.max_num_seqs(),
            "engine built"
        );
        let limits = Limits {
            vocab_size: info.vocab_size,
            max_len,
            limited_by,
            block_size: layout.block_size,
            max_num_seqs: scheduler.max_num_seqs(),
            max_intake: self.max_intake,
            has_tokenizer: tokenizer.is_some(),
            has_grammars: grammars.is_some(),
        };
        let masks = match &grammars {
            Some(_) => Some(MaskThreads::start(
                self.mask_threads,
                info.vocab_size,
                clock.clone(),
            )?),
            None => None,
        };
        let kept = self.grammars_kept;
        let grammars = grammars.map(|compiler| Arc::new(Grammars::new(compiler, kept)));
        let mut instruments = Instruments::new(recorder, &info.name);
        if speculation.is_some() {
            instruments.speculate();
        }
        let (command_sender, commands) = crossbeam_channel::unbounded();
        let (short, short_jobs) = crossbeam_channel::unbounded();
        let (long, long_jobs) = crossbeam_channel::unbounded();
        let stats = EngineStats {
            kv_blocks_total: kv.stats().total_blocks,
            memory_bytes,
            ..Default::default()
        };
        let shared = Arc::new(Shared::new(info, command_sender, stats));
        let core = Core {
            model,
            kv,
            scheduler,
            tokenizer: tokenizer.clone(),
            clock: clock.clone(),
            shared: shared.clone(),
            commands,
            instruments,
            listener,
            speculator: speculation.map(Speculator::new),
            seed: self
                .seed
                .unwrap_or_else(|| RandomState::new().hash_one(0u64)),
            masks,
            mask_time: Duration::ZERO,
            mask_wait: Duration::ZERO,
            requests: Default::default(),
            sequences: Sequences::default(),
            deadlines: Deadlines::default(),
            prefixes: Prefixes::default(),
            draining: false,
            stats,
            waste_sum: 0.0,
            steps: 0,
            phase: "engine",
            buffers: Buffers::default(),
        };
        thread::Builder::new()
            .name("llmserve-engine".into())
            .spawn(move || core.run())?;
        let last = Arc::new(LastLane(shared.clone()));
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let last = last.clone();
            let spawned = thread::Builder::new().name(name.into()).spawn(move || {
                let _last = last;
                run();
            });
            spawned.inspect_err(|_| shared.stop.store(true, Ordering::SeqCst))
        };
        let mut lanes = Vec::new();
        let queue = Arc::new(Queue::new(2, limits.max_intake));
        for (name, jobs) in [
            ("llmserve-intake", short_jobs),
            ("llmserve-intake-long", long_jobs),
        ] {
            let feeder = Feeder(queue.clone());
            let lane = Lane {
                shared: shared.clone(),
                limits: limits.clone(),
                tokenizer: tokenizer.clone(),
                grammars: grammars.clone().map(|grammars| (grammars, feeder)),
            };
            lanes.push((name, lane, jobs));
        }
        if let Some(grammars) = grammars {
            let compiling = Compiling {
                queue,
                grammars,
                shared: shared.clone(),
                limits: limits.clone(),
            };
            spawn("llmserve-grammars", Box::new(move || compiling.run()))?;
        }
        for (name, lane, jobs) in lanes {
            spawn(name, Box::new(move || lane.run(&jobs)))?;
        }
        let handle = Handle {
            intake: [short, long],
            shared,
            limits,
            tokenizer,
            clock,
        };
        Ok(Engine {
            handle: Arc::new(handle),
        })
    }
}
