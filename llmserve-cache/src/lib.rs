//! Answers that need no model run: a layer around anything that generates.
//!
//! A [`CacheLayer`] stands before a [`Generate`](llmserve_core::Generate) and is one itself. A
//! request whose answer cannot differ from the last time gets that answer again:
//!
//! ```text
//!                  ┌──────────────────────── CacheLayer ─────────────────────────┐
//!                  │             not deterministic                               │
//!  generate() ─────┼─► Key::new ───────────────────────────────────────────────┐ │
//!                  │      │ tenant, model, prompt, sampling, limits: all bytes │ │
//!                  │      ▼                                                    │ │
//!                  │   Store::get ── miss ──► inner.generate() ◄───────────────┘ │
//!                  │      │ hit                    │                             │
//!                  │      ▼                        │ events pass, and are        │
//!                  │   replay: same events,        │ recorded on the way         │
//!                  │   the hit's own timings       ▼                             │
//!  EventStream ◄───┼──────┘◄─────────────────── at the end, if every choice      │
//!                  │                            finished by itself: Store::put   │
//!                  └─────────────────────────────────────────────────────────────┘
//! ```
//!
//! * Only deterministic requests take part: greedy, or with a seed, and without logits
//!   processors, which are code and have no name. All others pass untouched.
//! * A [`Key`] is every field that can change the answer, byte for byte, tenant and model first;
//!   its 128-bit hash only finds the place. Two requests that share a hash share nothing else.
//! * Errors, answers cut off by a deadline, and streams dropped before their end are never stored.
//! * A [`Store`] that panics is a miss. A cache never makes a request fail.
//! * [`MemoryStore`] keeps answers within a number of bytes, gives up the least recently used
//!   first, and forgets after a time to live.
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
//!
//! Not here yet: single flight (equal requests that arrive together all run), semantic lookup,
//! stores on disk or in Redis, and invalidation other than by time.

#![forbid(unsafe_code)]

mod answer;
mod canonical;
mod key;
mod layer;
mod memory;
mod recorder;
mod stats;
mod store;
mod stream;

#[cfg(test)]
mod tests;

pub use answer::Answer;
pub use key::Key;
pub use layer::{CacheLayer, CacheLayerBuilder};
pub use memory::{BuildError, MemoryStore, MemoryStoreBuilder};
pub use stats::CacheStats;
pub use store::{Lookup, Store, StoreStats};
