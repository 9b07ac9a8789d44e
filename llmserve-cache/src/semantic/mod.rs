//! Answers to questions that mean the same.
//!
//! ```text
//!  text ─► Embedder ─► vector ─► the namespace's shelf: the nearest texts
//!                                   │
//!                       similarity below the threshold ──► far
//!                                   │
//!                       veto: read both texts           ──► a number, a negation, a name, …
//!                                   │
//!                       embed what they differ in       ──► other words for other things
//!                                   ▼
//!                                  hit
//! ```
//!
//! A [`SemanticIndex`] finds the text; whose answer that is, the caller knows. [`veto()`] is what
//! tells two near texts apart by reading them.

mod error;
mod index;
mod nearest;
mod quantised;
mod remembering;
mod scan;
mod shelf;
mod sketch;
mod threshold;
mod verify;
mod veto;

pub use error::IndexError;
pub use index::{IndexStats, SemanticIndex, SemanticIndexBuilder};
pub use nearest::{Nearest, Verdict};
pub use threshold::Threshold;
pub use verify::{Decision, ErrorBound, Evidence};
pub use veto::{Veto, veto};
