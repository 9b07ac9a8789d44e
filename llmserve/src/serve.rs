//! The short way: a model folder in, an engine out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmserve_cache::prompt::CachingTokenizer;
use llmserve_core::{
    BlockEvent, BuildError, Engine, IdentityRoot, LoadProgress, Model, NoopRecorder, Recorder,
    Scheduler, Tokenizer, Verification,
};
use llmserve_kv::PagedKv;
#[cfg(feature = "structured")]
use llmserve_model::LlguidanceCompiler;
use llmserve_model::{CpuOptions, DType, FileDType, Kernels, LoadError, ModelFolder};
use llmserve_sched::{ContinuousScheduler, Policy, Priority, SchedulerBuilder};

use crate::speculate::{SpecDepth, Speculative, Target};

/// KV memory unless said otherwise. It is only reserved: pages become resident when first used.
const DEFAULT_KV_BYTES: usize = 1 << 30;

/// Texts and tokens of some thousand pieces of prompts.
const DEFAULT_TOKEN_CACHE: usize = 8 << 20;

/// Why a model could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The model folder could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The KV options cannot be honoured.
    #[error(transparent)]
    Kv(#[from] llmserve_kv::BuildError),
    /// The scheduler's options cannot be honoured.
    #[error(transparent)]
    Scheduler(#[from] llmserve_sched::BuildError),
    /// The options of speculation contradict each other, or the models do.
    #[error("speculation: {0}")]
    Speculation(String),
    /// The cache of tokens cannot be that small.
    #[error("token_cache: {0}; 0 turns it off")]
    TokenCache(llmserve_cache::BuildError),
    /// The parts do not fit together.
    #[error(transparent)]
    Engine(#[from] BuildError),
}

/// Serves the model in a Hugging Face folder: `config.json`, safetensors, `tokenizer.json`.
pub fn serve(folder: impl AsRef<Path>) -> Serve {
    Serve {
        folder: folder.as_ref().to_owned(),
        options: CpuOptions::default(),
        dtype: None,
        packed_cache: PackedCache::Off,
        kv_blocks: None,
        kv_bytes: DEFAULT_KV_BYTES,
        block_size: 16,
        prefix_caching: true,
        max_pinned_blocks: None,
        scheduler: ContinuousScheduler::builder().policy(Priority),
        speculative: Speculative::default(),
        token_cache: DEFAULT_TOKEN_CACHE,
        max_intake: None,
        recorder: Arc::new(NoopRecorder),
        listener: None,
        seed: None,
        progress: None,
    }
}

/// Options of [`serve`]; every one has a default.
#[must_use = "nothing is loaded before build()"]
pub struct Serve {
    folder: PathBuf,
    options: CpuOptions,
    dtype: Option<DType>,
    packed_cache: PackedCache,
    kv_blocks: Option<usize>,
    kv_bytes: usize,
    block_size: usize,
    prefix_caching: bool,
    max_pinned_blocks: Option<usize>,
    scheduler: SchedulerBuilder,
    speculative: Speculative,
    token_cache: usize,
    max_intake: Option<usize>,
    recorder: Arc<dyn Recorder>,
    listener: Option<Listener>,
    seed: Option<u64>,
    progress: Option<Arc<LoadProgress>>,
}

/// Where packed weights are kept.
enum PackedCache {
    Off,
    /// In the model's folder.
    Folder,
    File(PathBuf),
}

type Listener = Box<dyn FnMut(&[BlockEvent]) + Send>;

impl Serve {
    /// How weights and KV are stored. By default bf16 for a checkpoint whose config says bf16, else
    /// f32: nothing is rounded unasked.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Whether packed weights are kept beside the checkpoint, in `llmserve-<dtype>.packed`, and
    /// mapped from there the next time; off by default. See
    /// [`ModelFolder::into_cpu_cached`](llmserve_model::ModelFolder::into_cpu_cached).
    pub fn packed_cache(mut self, on: bool) -> Self {
        self.packed_cache = match on {
            true => PackedCache::Folder,
            false => PackedCache::Off,
        };
        self
    }

    /// As [`packed_cache`](Self::packed_cache), in this file: for a folder that is read-only.
    pub fn packed_cache_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.packed_cache = PackedCache::File(file.into());
        self
    }

    /// Threads of the model; the physical cores by default.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads);
        self
    }

    /// Which instructions the kernels use; the best there are by default.
    pub fn kernels(mut self, kernels: Kernels) -> Self {
        self.options.kernels = Some(kernels);
        self
    }

    /// The name metrics and answers carry; the folder's by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// KV blocks. By default as many as [`kv_bytes`](Self::kv_bytes) hold, but no more than
    /// [`max_num_seqs`](Self::max_num_seqs) full contexts.
    pub fn kv_blocks(mut self, blocks: usize) -> Self {
        self.kv_blocks = Some(blocks);
        self
    }

    /// KV memory in bytes, 1 GiB by default; reserved, and resident once used. Where it holds less
    /// than the model's context, sequences are limited to what it holds.
    pub fn kv_bytes(mut self, bytes: usize) -> Self {
        self.kv_bytes = bytes;
        self
    }

    /// Tokens a KV block holds; 16 by default.
    pub fn block_size(mut self, tokens: usize) -> Self {
        self.block_size = tokens;
        self
    }

    /// Whether prompts start from blocks that earlier ones computed; on by default.
    pub fn prefix_caching(mut self, on: bool) -> Self {
        self.prefix_caching = on;
        self
    }

    /// Most KV blocks that prefixes [kept](llmserve_core::KeepPrefix) may name, each counted once;
    /// half of all by default.
    pub fn max_pinned_blocks(mut self, blocks: usize) -> Self {
        self.max_pinned_blocks = Some(blocks);
        self
    }

    /// Most sequences that run at once; 256 by default.
    pub fn max_num_seqs(mut self, sequences: usize) -> Self {
        self.scheduler = self.scheduler.max_num_seqs(sequences);
        self
    }

    /// Most tokens one step computes; 2,048 by default.
    pub fn max_batched_tokens(mut self, tokens: usize) -> Self {
        self.scheduler = self.scheduler.max_batched_tokens(tokens);
        self
    }

    /// Who waits for whom; by default those of lower [`Request::priority`](llmserve_core::Request::priority) first, and among equals who
    /// came first.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.scheduler = self.scheduler.policy(policy);
        self
    }

    /// More of the scheduler's options.
    pub fn scheduler(mut self, change: impl FnOnce(SchedulerBuilder) -> SchedulerBuilder) -> Self {
        self.scheduler = change(self.scheduler);
        self
    }

    /// Drafts tokens with the model in this folder: smaller, and of the same tokenizer. It has as
    /// many KV blocks as its target, and their dtype. Answers stay what they are.
    pub fn draft(mut self, folder: impl AsRef<Path>) -> Self {
        self.speculative.draft = Some(folder.as_ref().to_owned());
        self
    }

    /// Drafts what followed the last few tokens when they came before in the same sequence; with
    /// [`draft`](Self::draft) before that model is asked. Answers stay what they are.
    pub fn ngram(mut self) -> Self {
        self.speculative.ngram = true;
        self
    }

    /// How many tokens are drafted a step; [`SpecDepth::Auto`] by default. For
    /// [`draft`](Self::draft) or [`ngram`](Self::ngram).
    pub fn spec_depth(mut self, depth: impl Into<SpecDepth>) -> Self {
        self.speculative.depth = Some(depth.into());
        self
    }

    /// How drafts become tokens; [`Verification::Coupled`] by default, with which answers are
    /// those of an engine without speculation.
    pub fn verification(mut self, verification: Verification) -> Self {
        self.speculative.verification = verification;
        self
    }

    /// Bytes for the tokens of texts that recur, such as system prompts and earlier turns: they are
    /// encoded once, by a [`CachingTokenizer`](llmserve_cache::prompt::CachingTokenizer). 8 MiB by
    /// default, taken as prompts come; 0 encodes every prompt whole. Tokens are the same either way.
    pub fn token_cache(mut self, bytes: usize) -> Self {
        self.token_cache = bytes;
        self
    }

    /// Most requests on their way to the engine thread; see
    /// [`EngineBuilder::max_intake`](llmserve_core::EngineBuilder::max_intake).
    pub fn max_intake(mut self, requests: usize) -> Self {
        self.max_intake = Some(requests);
        self
    }

    /// Where metrics go; nowhere by default.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Who is told which KV blocks can be hit and which no longer can: an index elsewhere. Called
    /// on the engine's thread.
    pub fn on_block_events(mut self, listener: impl FnMut(&[BlockEvent]) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Where the seeds of requests without one come from; drawn from the system by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Who is told how far loading has come, and asked whether the model is still wanted; nobody by
    /// default. A draft model is not watched.
    pub fn progress(mut self, progress: Arc<LoadProgress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// About the bytes of memory that the engine will take: weights and KV cache, those of a draft
    /// model included, without the buffers of its steps. No weight is read. What it does take is
    /// [`EngineStats::memory_bytes`](llmserve_core::EngineStats::memory_bytes).
    ///
    /// # Errors
    /// [`ServeError`], as far as it shows without building.
    pub fn memory_estimate(self) -> Result<u64, ServeError> {
        let max_num_seqs = self.scheduler.build()?.max_num_seqs();
        let folder = ModelFolder::open(&self.folder)?;
        let dtype = dtype_of(self.dtype, &folder);
        let blocks = match self.kv_blocks {
            Some(blocks) => blocks,
            None => default_blocks(
                self.kv_bytes,
                self.block_size,
                kv_bytes_per_token(&folder, dtype),
                folder.config.max_position,
                max_num_seqs,
            ),
        };
        let tokens = blocks.saturating_mul(self.block_size);
        let takes = |folder: &ModelFolder, dtype| {
            let kv = tokens.saturating_mul(kv_bytes_per_token(folder, dtype));
            let weights = folder.memory_bytes(dtype)?;
            Ok::<_, ServeError>(weights.saturating_add(kv as u64))
        };
        let target = takes(&folder, dtype)?;
        match &self.speculative.draft {
            None => Ok(target),
            Some(draft) => {
                let draft = ModelFolder::open(draft)?;
                let draft = takes(&draft, dtype_of(self.dtype, &draft))?;
                Ok(target.saturating_add(draft))
            }
        }
    }

    /// Loads the model and starts the engine.
    ///
    /// # Errors
    /// [`ServeError`]: a folder that cannot be loaded, or options that cannot be honoured.
    pub fn build(self) -> Result<Engine, ServeError> {
        let mut folder = ModelFolder::open(&self.folder)?;
        folder.progress = self.progress;
        let mut options = self.options.clone();
        options.dtype = dtype_of(self.dtype, &folder);
        if options.name.is_none() {
            let name = folder.path.file_name();
            options.name = name.map(|name| name.to_string_lossy().into_owned());
        }
        let scheduler = self.scheduler.build()?;
        let cache = match self.packed_cache {
            PackedCache::Off => None,
            PackedCache::Folder => Some(folder.packed_path(options.dtype)),
            PackedCache::File(file) => Some(file),
        };
        let loaded = match cache {
            None => folder.into_cpu(options)?,
            Some(file) => folder.into_cpu_cached(options, &file)?,
        };
        let info = loaded.model.info();
        let group = &info.kv.groups[0];
        let blocks = match self.kv_blocks {
            Some(blocks) => blocks,
            None => default_blocks(
                self.kv_bytes,
                self.block_size,
                group.bytes_per_token,
                info.max_context,
                scheduler.max_num_seqs(),
            ),
        };
        let mut kv = PagedKv::builder()
            .blocks(blocks)
            .block_size(self.block_size)
            .root(IdentityRoot::new(
                info.fingerprint,
                &group.layout,
                self.block_size,
            ))
            .prefix_caching(self.prefix_caching)
            .events(self.listener.is_some());
        if let Some(most) = self.max_pinned_blocks {
            kv = kv.max_pinned_blocks(most);
        }
        let kv = kv.build()?;
        #[cfg(feature = "structured")]
        let (vocab_size, eos) = (info.vocab_size, info.eos.clone());
        let speculation = self.speculative.build(&Target {
            model: &loaded.model,
            options: &self.options,
            dtype: self.dtype,
            blocks,
            block_size: self.block_size,
            prefix_caching: self.prefix_caching,
            tokenizer: loaded.tokenizer.as_deref().map(|t| t as &dyn Tokenizer),
        })?;
        let mut builder = Engine::builder(loaded.model)
            .kv(kv)
            .scheduler(scheduler)
            .recorder(self.recorder.clone());
        if let Some(speculation) = speculation {
            builder = builder.speculative(speculation);
        }
        if let Some(tokenizer) = loaded.tokenizer {
            #[cfg(feature = "structured")]
            {
                let compiler = LlguidanceCompiler::new(tokenizer.clone(), vocab_size, &eos);
                builder = builder.grammars(Arc::new(compiler));
            }
            let mut tokenizer: Arc<dyn Tokenizer> = tokenizer;
            if self.token_cache > 0 {
                let caching = CachingTokenizer::builder(tokenizer)
                    .max_bytes(self.token_cache)
                    .recorder(self.recorder)
                    .build()
                    .map_err(ServeError::TokenCache)?;
                tokenizer = Arc::new(caching);
            }
            builder = builder.tokenizer(tokenizer);
        }
        if let Some(listener) = self.listener {
            builder = builder.on_block_events(listener);
        }
        if let Some(requests) = self.max_intake {
            builder = builder.max_intake(requests);
        }
        if let Some(seed) = self.seed {
            builder = builder.seed(seed);
        }
        Ok(builder.build()?)
    }
}

/// The type asked for, or else bf16 for a checkpoint of bf16 and f32 for all others.
pub(crate) fn dtype_of(asked: Option<DType>, folder: &ModelFolder) -> DType {
    asked.unwrap_or(match folder.config.weights_dtype {
        Some(FileDType::BF16) => DType::BF16,
        _ => DType::F32,
    })
}

/// Bytes of keys and values of one token.
fn kv_bytes_per_token(folder: &ModelFolder, dtype: DType) -> usize {
    let config = &folder.config;
    let numbers = config.num_layers * 2 * config.num_kv_heads * config.head_dim;
    numbers * dtype.kv().bits() as usize / 8
}

/// As many blocks as the bytes hold, but no more than all sequences could use. A context that does
/// not fit is cut short by the engine, which says so.
fn default_blocks(
    kv_bytes: usize,
    block_size: usize,
    bytes_per_token: usize,
    max_context: usize,
    max_num_seqs: usize,
) -> usize {
    let block = bytes_per_token.saturating_mul(block_size).max(1);
    let context = max_context.div_ceil(block_size.max(1));
    let useful = context.saturating_mul(max_num_seqs);
    (kv_bytes / block).clamp(1, useful.max(1))
}
