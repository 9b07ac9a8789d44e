//! Serve large language models inside your own program.
//!
//! ```no_run
//! use llmserve::prelude::*;
//!
//! let engine = llmserve::serve("examples/models/bard-2m").build()?;
//! for event in engine.generate(Request::text("HAMLET").max_tokens(64)) {
//!     print!("{}", event?.text());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `llmserve` is [vLLM's](https://arxiv.org/abs/2309.06180) ideas as a set of libraries: no server,
//! no Python, no GPU and no network are needed. This crate re-exports the others and fills in
//! their defaults.
//!
//! ```text
//!   your program ──► Router ──► CacheLayer ──► Engine        every one of them is a `Generate`
//!                   (route)      (cache)         │
//!                                 ┌──────────────┼──────────────┐
//!                             Scheduler      KvManager        Model
//!                              (sched)         (kv)          (model)
//! ```
//!
//! * [`serve`] is the short way: a model folder in, an [`Engine`] out.
//! * [`Engine::builder`] is the long way: every part handed in, every part replaceable.
//! * [`Folders`] is for several models in the memory of few: it loads them for a
//!   [`ModelCache`](cache::models::ModelCache).
//! * [`Generate`] is what engines, routers and caches have in common, so they nest.
//! * [`embed`] turns texts into vectors that tell how alike they are.

#![forbid(unsafe_code)]

pub mod embed;
mod folders;
#[cfg(feature = "metrics")]
mod metrics_recorder;
mod serve;
mod speculate;

/// The pages whose samples are compiled as tests of this crate.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../docs/model-cache.md")]
    struct ModelCache;
    #[doc = include_str!("../../docs/prompts.md")]
    struct Prompts;
}

pub use folders::Folders;
#[cfg(feature = "metrics")]
pub use metrics_recorder::MetricsRecorder;
pub use serve::{Serve, ServeError, serve};
pub use speculate::SpecDepth;

pub use llmserve_core::*;

pub use llmserve_cache as cache;
pub use llmserve_kv as kv;
pub use llmserve_model as model;
pub use llmserve_route as route;
pub use llmserve_sched as sched;

/// What almost every host needs.
pub mod prelude {
    pub use crate::{
        Engine, Error, Event, EventStream, FinishReason, Generate, Message, Request, Response,
        merge, serve,
    };
}
