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

mod breaker;
mod breakers;
mod config;
mod window;

pub use breaker::{Breaker, BreakerState, Permit};
pub use breakers::Breakers;
pub use config::{BreakerConfig, BreakerError};
