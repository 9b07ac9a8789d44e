//! How many replicas there should be, and of what.
//!
//! ```text
//!   signals ──► horizontal ──┐                             ┌─► ScaleTarget: in this process
//!   (window)                 ├─► the larger ─► Autoscaler ─┤
//!   demand ───► predictive ──┘                             └─► gauges, for HPA and KEDA
//!   (weeks)
//!
//!   demand, catalogue ─► hardware: the cheapest mix that meets it
//! ```
//!
//! Every decision is a pure function of what was measured: [`Horizontal::decide`] of a window of
//! [`Signals`], [`Predictive::forecast`] of weeks of [`Demand`], [`Hardware::cheapest`] of a
//! catalogue. An [`Autoscaler`] keeps what they need, asks them when it is told the time, and tells a
//! [`ScaleTarget`].

mod autoscaler;
mod error;
mod gauges;
mod hardware;
mod horizontal;
mod predictive;
mod signals;
pub mod target;
#[cfg(test)]
mod tests;

pub use autoscaler::{Autoscaler, AutoscalerBuilder, Tick};
pub use error::ScaleConfigError;
pub use hardware::{Hardware, HardwareChoice, Instances, Kind, RuledOut, Spot, Wanted};
pub use horizontal::{Decision, Horizontal, LastScaled, Reason};
pub use predictive::{Basis, Demand, Forecast, Predictive};
pub use signals::Signals;
pub use target::{RouterTarget, ScaleError, ScaleTarget};
