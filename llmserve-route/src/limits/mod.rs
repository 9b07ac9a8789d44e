//! How much each caller may ask for.
//!
//! ```text
//!  generate(request) ─► reserve ──► inner ──► events ──► settle
//!                        │ requests, tokens,              what it cost in the end,
//!                        │ places at once                 the rest is given back
//!                        ▼
//!                  Error::RateLimited, with the time to wait
//! ```
//!
//! [`Limits`] is a service around a service. What it knows of a caller is kept by a [`Limiter`],
//! which several services may share and a host may ask itself.

mod bucket;
mod charge;
mod layer;
mod limiter;
mod metered;
mod rate;
#[cfg(test)]
mod tests;

pub use charge::Charge;
pub use layer::{Limits, LimitsBuilder};
pub use limiter::{Limiter, LimiterBuilder, LimitsError};
pub use rate::{Limit, Per, Rate};
