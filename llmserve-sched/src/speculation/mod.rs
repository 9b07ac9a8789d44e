//! Drafting tokens, and deciding how many are worth it.
//!
//! ```text
//!  Depth  ──► how many drafts for each sequence        AdaptiveDepth, or a fixed number
//!  Proposer ► the drafts                               NGram, DraftModel, Composite
//!  the engine verifies them in the next step
//! ```
//!
//! * [`NGram`] looks for what the sequence said before: free, and right where it repeats itself.
//! * [`DraftModel`] asks a smaller model, with the target's own noise.
//! * [`Composite`] asks one, and another where the first has no idea.
//! * [`AdaptiveDepth`] compares what drafts brought with what they cost, and turns itself off.

mod adaptive;
mod composite;
mod cost;
mod draft_model;
mod ngram;
#[cfg(test)]
mod tests;

pub use adaptive::{AdaptiveDepth, AdaptiveDepthConfig};
pub use composite::Composite;
pub use draft_model::DraftModel;
pub use ngram::{NGram, NGramError};
