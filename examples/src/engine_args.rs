//! The flags that shape an engine.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use llmserve::model::{DType, Kernels};
use llmserve::{Engine, Serve, SpecDepth};

use crate::Source;

/// What computes, in which type, and how much of it at once.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// Which model.
    #[command(flatten)]
    pub source: Source,
    /// What weights are stored and multiplied in. Default: bf16 for a bf16 checkpoint, else f32.
    #[arg(long, value_name = "f32|bf16|int8|int4")]
    pub dtype: Option<DType>,
    /// Keep packed weights beside the checkpoint, and map them the next time.
    #[arg(long)]
    pub packed_cache: bool,
    /// Threads of the model. Default: the physical cores.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Which instructions the kernels use. Default: the best this machine has.
    #[arg(long, value_name = "portable|avx2|avx512|avx512vnni|avx512bf16")]
    pub kernels: Option<Kernels>,
    /// KV blocks. Default: what 1 GiB holds.
    #[arg(long, value_name = "N")]
    pub kv_blocks: Option<usize>,
    /// Tokens a KV block holds.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub block_size: usize,
    /// Most sequences that run at once.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_num_seqs: usize,
    /// Most tokens one step computes.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub max_batched_tokens: usize,
    /// Compute every prompt from its first token, whatever is cached.
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// Draft tokens with the model in this folder, and verify several in one step.
    #[arg(long, value_name = "DIR")]
    pub draft: Option<PathBuf>,
    /// Draft what followed the last tokens when they came before.
    #[arg(long)]
    pub ngram: bool,
    /// Drafts a step, or `auto` for as many as pay. For --draft or --ngram.
    #[arg(long, value_name = "N|auto")]
    pub spec_depth: Option<SpecDepth>,
}

impl EngineArgs {
    /// Loads the model, with a spinner on a terminal, and starts the engine.
    ///
    /// # Errors
    /// A text that names what is wrong.
    pub fn build(&self) -> Result<Engine, String> {
        // Whoever runs an example has all its requests in memory anyway.
        self.build_with(|serve| {
            serve
                .max_intake(usize::MAX)
                .scheduler(|scheduler| scheduler.max_queue(None))
        })
    }

    /// [`build`](Self::build) with the host's own options, and the queues' limits as they are by
    /// default: requests come from strangers.
    ///
    /// # Errors
    /// A text that names what is wrong.
    pub fn build_with(&self, with: impl FnOnce(Serve) -> Serve) -> Result<Engine, String> {
        let folder = self.source.folder()?;
        // Draws nothing where stderr is no terminal.
        let spinner =
            ProgressBar::new_spinner().with_message(format!("loading {}", folder.display()));
        spinner.enable_steady_tick(Duration::from_millis(100));
        let mut serve = llmserve::serve(folder)
            .block_size(self.block_size)
            .max_num_seqs(self.max_num_seqs)
            .max_batched_tokens(self.max_batched_tokens)
            .prefix_caching(!self.no_prefix_cache)
            .packed_cache(self.packed_cache);
        if let Some(dtype) = self.dtype {
            serve = serve.dtype(dtype);
        }
        if let Some(kernels) = self.kernels {
            serve = serve.kernels(kernels);
        }
        if let Some(threads) = self.threads {
            serve = serve.threads(threads);
        }
        if let Some(blocks) = self.kv_blocks {
            serve = serve.kv_blocks(blocks);
        }
        if let Some(draft) = &self.draft {
            serve = serve.draft(draft);
        }
        if self.ngram {
            serve = serve.ngram();
        }
        if let Some(depth) = self.spec_depth {
            serve = serve.spec_depth(depth);
        }
        let engine = with(serve).build().map_err(|error| error.to_string());
        spinner.finish_and_clear();
        engine
    }
}
