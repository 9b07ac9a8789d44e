//! Regions as one service.
//!
//! ```text
//!   request ─► residency ─► health, capacity ─► mode ──────────► score ─────────► region "eu"
//!   origin,    a limit,     draining            who of them      latency, load,   region "us"
//!   regions    kept always                      is in service    cost, priority   region "asia"
//! ```
//!
//! [`Federation`] is a [`Router`](crate::Router) over regions whose strategy is [`RegionScore`]: what
//! holds for routers holds for it. [`RegionScore`] alone serves a router whose replicas are many in
//! each region.
//!
//! * **Residency.** A request that names regions goes to no other: not after failures, not as a
//!   hedge, not as a copy. A region's service that is a router says of its own replicas where they
//!   are, or refuses such requests.
//! * **Modes.** [`Mode::ActiveActive`]: every region serves. [`Mode::ActivePassive`]: those of the
//!   highest priority serve, the others while those are out or full. [`Mode::NPlusOne`]: every
//!   region serves, and together they take no more than all but the largest can hold, so that any
//!   one may be lost.
//! * **Failback with hysteresis.** A region that fails several times in a row, or is drained, is out
//!   of favour: asked only where nobody else may answer, until it has been well for a while.

mod config;
mod favour;
mod layer;
mod score;
#[cfg(test)]
mod tests;

pub use config::{FederationConfig, Mode, ScoreWeights};
pub use layer::{Federation, FederationBuilder, FederationError, Region};
pub use score::RegionScore;
