//! Several models in the memory of few: loaded when asked for, given up when idle.
//!
//! A [`ModelCache`] is a [`Generate`](llmserve_core::Generate) that reads
//! [`Request::model`](llmserve_core::Request::model). It has a budget of bytes and a
//! [`Loader`](llmserve_core::Loader) that turns names into services.
//!
//! ```text
//!                       ┌───────────────────── ModelCache ─────────────────────┐
//!                       │            loaded                                    │
//!  generate(model: b) ──┼─► who? ─────────────► b.generate() ──────────────────┼─► EventStream
//!                       │     │ not loaded                        ▲            │
//!                       │     ▼                                   │ all of them│
//!                       │   waits with b's others, in b's place   │            │
//!                       │   of the line:  b, d, a                 │            │
//!                       │     │ first in line                     │            │
//!                       │     ▼                                   │            │
//!                       │   room for b? ─ no ─► idle models go,   │            │
//!                       │     │ yes             the least worth first          │
//!                       │     ▼                                   │            │
//!                       │   Loader::load, on a thread of its own ─┘            │
//!                       └──────────────────────────────────────────────────────┘
//! ```
//!
//! * **One load** for all who ask while it runs, and none for who asked and went away before it
//!   began.
//! * **Bytes.** A load begins when its [estimate](llmserve_core::Loader::estimate) is free; what
//!   the model [says](llmserve_core::Loaded::bytes) once it is loaded takes the estimate's place.
//!   If that is too much, idle models go at once, and without such the new one does, to come back
//!   when there is room for what it really takes.
//! * **Who goes** is decided by GreedyDual-Size-Frequency (Cherkasova, 1998): worth is how often a
//!   model is asked for, times the time that it takes to load, over its bytes, and what is not asked
//!   for any more ages as others come. A model goes when no answer of it is unfinished, never
//!   earlier, and never while it is [pinned](ModelCache::pin).
//! * **Waiting** is first come, first served, over models. One that waits for room longer than the
//!   cache's patience is no longer overtaken: models in its way finish what they have and get
//!   nothing new until it had its turn, so that no model starves.
//! * **Failures** are told to all who waited, remembered, and tried again later and later.
//!
//! What decides is a state machine without clock, thread or lock; a keeper thread asks it what to
//! do next, and loads and unloads run on threads of their own.

mod builder;
mod cache;
mod instruments;
mod keeper;
mod state;
mod stats;
mod ticket;

#[cfg(test)]
mod tests;

pub use builder::{ModelCacheBuilder, ModelCacheError};
pub use cache::ModelCache;
pub use stats::{ModelCacheStats, ModelState, ModelStats};
