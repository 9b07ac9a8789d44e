//! Answers that need no model run: a layer around anything that generates.
//!
//! A [`CacheLayer`] stands before a [`Generate`](llmserve_core::Generate) and is one itself. A
//! request whose answer cannot differ from the last time gets that answer again:
//!
//! ```text
//!                  ┌──────────────────────── CacheLayer ──────────────────────────┐
//!                  │             takes no part (Policy)                           │
//!  generate() ─────┼─► Key::new ────────────────────────────────────────────────┐ │
//!                  │      │ tenant, model, prompt, sampling, limits: all bytes  │ │
//!                  │      ▼                                                     │ │
//!                  │   Store::get ── miss ──► is an equal request running?      │ │
//!                  │      │ hit                 │ yes: listen    │ no: run      │ │
//!                  │      ▼                     ▼                ▼              │ │
//!                  │   replay: same events,   one log of    inner.generate() ◄──┘ │
//!                  │   the hit's own timings  the run ◄──── events                │
//!                  │      │                     │                │ at the end, if │
//!  EventStream ◄───┼──────┴─────────────────────┘                │ the policy     │
//!                  │                                             ▼ keeps it       │
//!                  │                                         Store::put           │
//!                  └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! * By default only deterministic requests take part: greedy, or with a seed. Those with logits
//!   processors, which are code and have no name, never do. All others pass untouched.
//! * A [`Key`] is every field that can change the answer, byte for byte, tenant and model first;
//!   its 128-bit hash only finds the place. Two requests that share a hash share nothing else.
//! * Equal requests that arrive together cost one run, that none of them owns.
//! * Errors, answers cut off, and streams dropped before their end are never stored.
//! * [`Epochs`] make answers old by tenant, model or tag at once, wherever they are stored.
//! * A [`Store`] that panics is a miss. A cache never makes a request fail.
//! * [`MemoryStore`] keeps answers within a number of bytes; [`Tiered`] puts one store before
//!   another. `RedisStore` (feature `redis`) is one that several hosts share, and `DiskStore`
//!   (feature `disk`) one that outlives the process.
//! * [`semantic`] finds questions that mean the same, and tells apart those that only look so.
//! * [`prompt`] has what prompts begin with ready before they are asked for, and encodes once what recurs.
//! * [`models::ModelCache`] keeps several models in a budget of memory, and is of use by itself.
//! * [`HashedNgrams`] turns texts into vectors without a model, for telling which are alike.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicUsize, Ordering};
//! use llmserve_cache::CacheLayer;
//! use llmserve_core::{Event, EventStream, Finished, FinishReason, Generate, Request};
//! use llmserve_core::{Started, Timings, TokenEvent, Usage};
//!
//! /// Counts its runs and answers everything with one word.
//! #[derive(Default)]
//! struct Model {
//!     runs: AtomicUsize,
//! }
//! impl Generate for Model {
//!     fn generate(&self, _request: Request) -> EventStream {
//!         self.runs.fetch_add(1, Ordering::Relaxed);
//!         let word = TokenEvent { index: 0, id: 1, text: "hello".into(), logprobs: None };
//!         EventStream::ready([
//!             Ok(Event::Started(Started::default())),
//!             Ok(Event::Token(word)),
//!             Ok(Event::Finished(Finished {
//!                 index: 0,
//!                 reason: FinishReason::Eos(2),
//!                 text: String::new(),
//!                 usage: Usage::default(),
//!                 timings: Timings::default(),
//!             })),
//!         ])
//!     }
//! }
//!
//! let model = Arc::new(Model::default());
//! let cached = CacheLayer::new(model.clone());
//!
//! // Greedy, so the second answer is the first.
//! for _ in 0..2 {
//!     assert_eq!(cached.generate(Request::text("Hi")).wait()?.text(), "hello");
//! }
//! assert_eq!(model.runs.load(Ordering::Relaxed), 1);
//!
//! // Another tenant has its own answers, and chance without a seed is not cached at all.
//! cached.generate(Request::text("Hi").tenant("acme")).wait()?;
//! cached.generate(Request::text("Hi").temperature(0.8)).wait()?;
//! assert_eq!(model.runs.load(Ordering::Relaxed), 3);
//!
//! let stats = cached.stats();
//! assert_eq!((stats.hits, stats.misses, stats.bypassed), (1, 2, 1));
//! # Ok::<(), llmserve_core::Error>(())
//! ```

#![forbid(unsafe_code)]

mod answer;
mod canonical;
mod entry;
mod epoch;
mod error;
mod flight;
mod hashed;
mod key;
mod layer;
pub mod models;
mod policy;
pub mod prompt;
mod recorder;
pub mod semantic;
mod stats;
mod store;
mod sync;
mod trace;

#[cfg(test)]
mod tests;

/// The pages whose samples are compiled as tests of this crate.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../docs/caching.md")]
    struct Caching;
    #[cfg(feature = "redis")]
    #[doc = include_str!("../../docs/cache-stores.md")]
    struct CacheStores;
}

pub use answer::Answer;
pub use entry::{Entry, Unusable};
pub use epoch::{Epochs, Scope, Stamp};
pub use error::BuildError;
pub use hashed::HashedNgrams;
pub use key::Key;
pub use layer::{CacheLayer, CacheLayerBuilder, Semantic};
pub use policy::Policy;
pub use stats::CacheStats;
#[cfg(feature = "disk")]
pub use store::disk::{DiskBuildError, DiskStore, DiskStoreBuilder};
pub use store::memory::{MemoryStore, MemoryStoreBuilder};
#[cfg(feature = "redis")]
pub use store::redis::{RedisBuildError, RedisStore, RedisStoreBuilder};
pub use store::tiered::Tiered;
pub use store::{LookingUp, Lookup, Store, StoreStats};
pub use trace::{Source, Trace};
