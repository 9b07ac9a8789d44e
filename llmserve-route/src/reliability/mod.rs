//! What a router does when an answer does not come.
//!
//! ```text
//!  dispatch ─► waiting ──first event──► answering ──────────────► end
//!     ▲          │  │                       │
//!     │          │  └ too long: a second     └ fails, or is silent for too long:
//!     │          │    replica is asked,        goes on elsewhere with the tokens there are,
//!     │          │    the first event wins     where that gives the same answer; else its error
//!     │          │    (Hedge)                  (replay)
//!     │          └ fails, or says nothing for too long (Timeouts)
//!     │                       │
//!     └──── pause (Backoff) ◄─┴─ a replica that was not tried, an attempt and a
//!                                retry left (max_attempts, RetryBudget); else its error
//! ```

mod backoff;
mod budget;
mod hedge;
mod timeouts;

pub use backoff::Backoff;
pub use budget::RetryBudget;
pub use hedge::Hedge;
pub use timeouts::Timeouts;

pub(crate) use budget::Budget;
pub(crate) use hedge::Hedging;

/// What is wrong with one of these.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}: {reason}")]
pub struct ReliabilityError {
    /// The field, with the type it is of.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub reason: &'static str,
}

impl ReliabilityError {
    fn new(field: &'static str, value: impl std::fmt::Debug, reason: &'static str) -> Self {
        let value = format!("{value:?}");
        Self {
            field,
            value,
            reason,
        }
    }
}
