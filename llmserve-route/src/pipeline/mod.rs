//! Strategies from parts: filter, score, pick.
//!
//! ```text
//! candidates ─► Filter ─► Filter ─► Σ weight × Score ─► Pick ─► the one
//!               who is out?         0 to 1 for each     best, or drawn
//! ```
//!
//! Each part says one thing about candidates, so that a host adds what it knows (a price that
//! changes, a maintenance window) beside what is ready-made. A part declares the [`Signal`]s it
//! reads, and a pipeline in which one has no source is an error of
//! [`build`](PipelineBuilder::build), not a score that is silently 0.

mod builder;
mod filters;
mod picks;
mod scores;

pub use builder::{Pipeline, PipelineBuilder, PipelineError};
pub use filters::Balanced;
pub use picks::{Best, BetterOfTwo, Softmax};
pub use scores::{LowCost, PrefixCached, Quality, Queue, Tokens};

use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::outcome::{Answering, Outcome};
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// What a part reads that is not there by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// [`Ask::key`]: from [`PipelineBuilder::key_by`].
    Key,
    /// [`Ask::blocks`]: from [`PipelineBuilder::identify`].
    Blocks,
}

/// What every part of a pipeline may want to hear. Called under the router's lock, as the methods of
/// the same names of [`Strategy`](crate::Strategy) are; a part keeps what it wants to remember
/// of a request by itself.
pub trait Part: Send + Sync {
    /// What it reads besides loads and what is known about replicas. Nothing unless said
    /// otherwise.
    fn signals(&self) -> &[Signal] {
        &[]
    }

    /// A replica came.
    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let _ = (slot, info);
    }

    /// A replica is gone: forget it.
    fn left(&self, slot: Slot) {
        let _ = slot;
    }

    /// A request goes to the one in `slot`.
    fn dispatched(&self, ask: &Ask<'_>, slot: Slot) {
        let _ = (ask, slot);
    }

    /// The first event of a request came.
    fn answering(&self, slot: Slot, answering: &Answering) {
        let _ = (slot, answering);
    }

    /// A request ended.
    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        let _ = (slot, outcome);
    }
}

/// Rules candidates out.
pub trait Filter: Part {
    /// Takes those out of `set`, by [`Slot::index`], that shall not be picked; it begins as
    /// `candidates`. What it adds is not heeded. Where nobody is left the filter does not count
    /// for this request: it is a preference, and limits are the router's.
    fn filter(&self, ask: &Ask<'_>, candidates: &Candidates<'_>, set: &mut ReplicaSet);
}

/// Says how well candidates suit.
pub trait Score: Part {
    /// Adds one score to `scores` for each candidate, in their order, from 0 for the worst to 1.
    /// Others are taken as the nearest of these; one that is no number, or missing, as 0.
    fn score(&self, ask: &Ask<'_>, candidates: &Candidates<'_>, scores: &mut Vec<f64>);
}

/// Picks by score.
pub trait Pick: Part {
    /// One of `scored`, which has at least one, or none of them. More is better.
    fn pick(
        &self,
        ask: &Ask<'_>,
        candidates: &Candidates<'_>,
        scored: &[(Slot, f64)],
    ) -> Option<Slot>;
}
