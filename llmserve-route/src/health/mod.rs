//! Whether a replica can be asked.
//!
//! ```text
//!                   consecutive failures, or failure rate of a window
//!        ┌────────┐ ─────────────────────────────────────────► ┌──────┐
//!        │ closed │                                            │ open │ ◄─┐
//!        └────────┘ ◄──────────── ┌───────────┐ ◄───────────── └──────┘   │
//!             ▲      enough probes│ half open │  its time is up           │
//!             │         succeed   └───────────┘                           │
//!             │                        └───────── a probe fails ──────────┘
//!             └── a health check says that it is well;  one that says it is not opens
//! ```
//!
//! What requests tell and what health checks tell go into one [`Breaker`], so that there is one
//! answer to whether a replica may be asked, and not two that disagree.
//!
//! Requests tell of replicas that are asked. Of those that are not, a [`Probe`] tells: a router with
//! [`health_checks`](crate::RouterBuilder::health_checks) asks each replica that has one, again and
//! again, so that one that has died is found before a request finds it, and one that is back is asked
//! without a request being tried on it.

mod breaker;
mod breakers;
mod checks;
mod config;
mod probe;
mod prober;
mod window;

pub use breaker::{Breaker, BreakerState, Permit};
pub use breakers::Breakers;
pub use checks::{HealthCheckError, HealthChecks};
pub use config::{BreakerConfig, BreakerError};
pub use probe::{Probe, Probing};

pub(crate) use prober::Prober;
