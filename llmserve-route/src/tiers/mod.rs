//! Services of different strength behind one: small and cheap models, and large and good ones.
//!
//! ```text
//!  Tiered: one tier answers                        Cascade: the cheapest tries first
//!
//!  request ─► estimate ─┬► fast      0.2           request ─► small ─► check ── good ──► answer
//!             0.43      ├► standard  1.0  ◄─                             │ not
//!                       └► quality   9.0                       large ◄───┘ ────────────► answer
//! ```
//!
//! [`Tiered`] guesses how hard a request is before anybody has answered, and asks one tier:
//! one run, the time of one run, and as good as the guess. [`Cascade`] asks the cheapest and looks
//! at the answer: nothing needs to be guessed, and hard requests pay for two runs and wait for
//! both. Both keep every limit in the request's [`Routing`](llmserve_core::Routing).

mod cascade;
mod choice;
mod complexity;
#[cfg(test)]
mod tests;
mod tier;
mod tiered;

pub use cascade::{
    AllOf, Cascade, CascadeBuilder, CascadeStats, MeanLogprob, MinimumTokens, QualityCheck,
    RungStats, Whole,
};
pub use complexity::{
    ByExamples, ByFeatures, ByKeywords, ByLength, Complexity, ComplexityError, Estimator,
};
pub use tier::{Tier, TierError};
pub use tiered::{Tiered, TieredBuilder};
