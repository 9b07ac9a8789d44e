//! The vocabulary of llmserve, the contracts its parts speak, and the engine loop that drives them.
//!
//! This crate knows nothing of tensors, files or HTTP. It says what a request and an answer are,
//! what a model, a KV manager and a scheduler must do for each other, and runs the loop in which
//! they do it:
//!
//! ```text
//!   host thread(s)                      one engine thread, the only owner of sequences
//!  ┌──────────────┐   Request    ┌──────────────────────────────────────────────────────┐
//!  │ generate() ──┼──► intake ──►│ plan ─► page ops ─► submit ─► sample ─► commit ─┐     │
//!  │              │  (tokenise)  │  ▲  Scheduler  KvManager   Model    Sampler     │     │
//!  │ EventStream ◄┼──────────────┼──┼──────── events ◄───────────────────────────◄─┘     │
//!  └──────────────┘              └──┴───────────────────────────────────────────────────┘
//! ```
//!
//! * [`Generate`] is *the* service trait: a [`Request`] goes in, an [`EventStream`] comes out.
//!   Engines, remote endpoints, routers and caches all implement it, so they nest.
//! * [`Model`], [`KvManager`], [`Scheduler`] and [`Tokenizer`] are the parts of an engine; each is
//!   a trait object, so each can be replaced.
//! * [`Embedder`] turns texts into vectors, for whoever asks how alike two of them are.
//! * [`sampling`] turns a row of logits into a token. The pick is a pure function of the logits,
//!   the seed, the choice and the position, so a request gives the same ids alone, in a batch,
//!   preempted or speculated upon.
//! * [`Engine`] puts them together.

#![forbid(unsafe_code)]

pub mod contract;

pub mod engine;
pub mod error;
pub mod event;
pub mod identity;
pub mod ids;
pub mod metrics;
pub mod request;
pub mod routing;
pub mod sampling;
mod sync;
pub mod text;

pub use contract::clock::{Clock, ManualClock, SystemClock, Time};
pub use contract::embedder::Embedder;
pub use contract::generate::{Blocking, EventStream, Generate};
pub use contract::grammar::{Constraint, Grammar, GrammarCompiler, GrammarError, GrammarMatcher};
pub use contract::kv::{
    BlockEvent, BlockTables, Demand, KvError, KvLayout, KvManager, KvStats, OutOfBlocks, PageOp,
    Pinned, PrefixScope,
};
pub use contract::loader::{LoadProgress, Loaded, Loader};
pub use contract::merge::{Merged, merge};
pub use contract::model::{
    Batch, BatchRow, KvGroupSpec, KvSpec, Logits, LogitsWanted, Model, ModelError, ModelInfo,
    PageStore, StepLimits,
};
pub use contract::prefix::{KeepPrefix, Keeper, Keeping, KeptPrefix, Prefix};
pub use contract::proposer::{
    Depth, DepthAsk, Distribution, DraftAsk, FixedDepth, MAX_DRAFT_DEPTH, ProposalReport, Proposer,
    ProposerLimits, Speculation, StepReport, Verification, Verified,
};
pub use contract::scheduler::{
    Admission, End, Fork, PlannedRow, Refusal, RowOutcome, SchedRequest, Scheduler,
    SchedulerCounts, StepOutcome, StepPlan,
};
pub use contract::tokenizer::{Message, RenderOptions, Tokenizer, TokenizerError};

pub use engine::{BuildError, Engine, EngineBuilder, EngineStats};
pub use error::Error;
pub use event::{
    Choice, Event, FinishReason, Finished, Response, Started, TextEvent, Timings, TokenEvent,
    TokenLogprobs, Usage,
};
pub use identity::{BlockIdentity, Extras, IdentityRoot};
pub use ids::{BlockId, GroupId, SequenceId, TokenId};
pub use metrics::{
    Counter, Gauge, GuardedRecorder, Histogram, MemoryRecorder, NoopRecorder, Recorder,
};
pub use request::{Prompt, Request};
pub use routing::Routing;
pub use sampling::{LogitsContext, LogitsProcessor, Sampling, Survey, TokenMask};
