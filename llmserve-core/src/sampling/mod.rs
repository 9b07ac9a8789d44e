//! From a row of logits to a token.
//!
//! ```text
//!  logits ─► processors ─► penalties, bias ─► temperature ─► min-p ─► top-k ─► top-p ─► pick
//! ```
//!
//! The pick is the Gumbel-max trick with noise that is a pure function of (seed, choice,
//! position, token): a sampled token depends on nothing else, so a request gives the same ids
//! alone, in any batch, after a preemption, and under speculation.

mod params;

pub use params::{LogitsContext, LogitsProcessor, Sampling};
