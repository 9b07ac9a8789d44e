//! A new version beside the one in service: some of the requests, or copies of them.
//!
//! ```text
//!  canary: these answer                       shadow: nobody reads it
//!
//!  request ─► Router ─┬─ 95 ─► stable         request ─► Shadow ───► stable ─► answer
//!                     └─  5 ─► canary                       └ copy ─► new ─► counted
//! ```
//!
//! A canary is a replica with a [weight](crate::Replica::weight) in a router whose strategy goes by
//! weight: [`Affinity`](crate::Affinity) where a session or a tenant shall always meet the same
//! version, with [`Weighted`](crate::Weighted) for those that name none. Failover goes from one to
//! the other, unless `max_attempts(1)` says otherwise.
//!
//! ```
//! # use llmserve_core::{Error, EventStream, Generate, Request};
//! # struct Closed;
//! # impl Generate for Closed {
//! #     fn generate(&self, _request: Request) -> EventStream {
//! #         EventStream::failed(Error::ShutDown)
//! #     }
//! # }
//! use llmserve_route::{Affinity, Replica, Router, Weighted};
//! let (stable, canary) = (Closed, Closed);
//! let service = Router::builder()
//!     .replica(Replica::new("stable", stable).weight(95))
//!     .replica(Replica::new("canary", canary).weight(5))
//!     .strategy(Affinity::new().otherwise(Weighted::new()))
//!     .build()?;
//! # Ok::<(), llmserve_route::BuildError>(())
//! ```
//!
//! [`Shadow`] sends copies.

mod copies;
mod shadow;
#[cfg(test)]
mod tests;

pub use shadow::{Shadow, ShadowBuilder, ShadowError, ShadowStats};
