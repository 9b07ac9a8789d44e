//! How many replicas there should be, and of what.
//!
//! ```text
//!  router ─► Meter ─► signals ─► horizontal ─┐                             ┌─► ScaleTarget: in this
//!                     (window)               ├─► the larger ─► Autoscaler ─┤   process, Kubernetes
//!                     demand ──► predictive ─┘                             └─► gauges, for HPA, KEDA
//!                     (weeks)
//!
//!   demand, catalogue ─► hardware: the cheapest mix that meets it
//! ```
//!
//! Every decision is a pure function of what was measured: [`Horizontal::decide`] of a window of
//! [`Signals`], [`Predictive::forecast`] of weeks of [`Demand`], [`Hardware::cheapest`] of a
//! catalogue. A [`Meter`] measures a live router; an [`Autoscaler`] keeps what they need, asks them when it is told the time, and tells a
//! [`ScaleTarget`].

mod autoscaler;
mod error;
mod gauges;
mod hardware;
mod horizontal;
mod meter;
mod predictive;
mod signals;
pub mod target;
#[cfg(test)]
mod tests;

pub use autoscaler::{Autoscaler, AutoscalerBuilder, Tick};
pub use error::ScaleConfigError;
pub use gauges::SignalGauges;
pub use hardware::{Hardware, HardwareChoice, Instances, Kind, RuledOut, Spot, Wanted};
pub use horizontal::{Decision, Horizontal, LastScaled, Reason};
pub use meter::{Measured, Meter};
pub use predictive::{Basis, Demand, Forecast, Predictive};
pub use signals::Signals;
#[cfg(feature = "kube")]
pub use target::KubernetesScale;
pub use target::{RouterTarget, ScaleError, ScaleTarget};
