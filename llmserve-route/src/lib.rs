//! Choosing who answers: one [`Generate`](llmserve_core::Generate) in front of many.
//!
//! A [`Router`] stands before named replicas (engines, remote endpoints, caches, other routers:
//! anything that generates) and is itself something that generates, so layers nest:
//!
//! ```text
//!                      ┌───────────────────────── Router ─────────────────────────┐
//!                      │                                                          │
//!  generate(request) ──┼─► filter ───────► Strategy ───► dispatch ──► replica "a" │
//!                      │   who serves      who of them   counted      replica "b" │
//!                      │   this model?     now?          at once      replica "c" │
//!                      │                      ▲                            │      │
//!                      │                      │   an error about the       │      │
//!                      │                      │   replica, before the      │      │
//!                      │                      └── first event: try another ┤      │
//!                      │                                                   │      │
//!  EventStream ◄───────┼── events, from the first on from one replica ◄────┘      │
//!                      └──────────────────────────────────────────────────────────┘
//! ```
//!
//! * A [`Replica`] is a name, a service, and the models it serves.
//! * A [`Strategy`] picks one of the [`Candidate`]s. There are two: [`RoundRobin`] and
//!   [`LeastLoaded`]; a host's own is one method.
//! * Load is counted by the router itself, when it dispatches and not when somebody reports. The
//!   count lives in the stream: it is given back when the answer ends, fails, panics or is dropped.
//! * Failover happens in the stream, never in `generate()`: a replica that fails before its first
//!   event with an error of its own (overloaded, shut down, model failure, panic) is replaced by
//!   another, each at most once. A request that is itself wrong fails at once, and after the first
//!   event an error is passed on as it is: a half-told answer is never silently begun anew.
//!
//! ```
//! use llmserve_core::{Error, Event, EventStream, Finished, FinishReason, Generate, Request};
//! use llmserve_core::{Started, Timings, TokenEvent, Usage};
//! use llmserve_route::{LeastLoaded, Replica, Router};
//!
//! /// Answers everything with one word.
//! struct Says(&'static str);
//! impl Generate for Says {
//!     fn generate(&self, _request: Request) -> EventStream {
//!         EventStream::ready([
//!             Ok(Event::Started(Started::default())),
//!             Ok(Event::Token(TokenEvent { index: 0, id: 1, text: self.0.into(), logprobs: None })),
//!             Ok(Event::Finished(Finished {
//!                 index: 0,
//!                 reason: FinishReason::Length,
//!                 text: String::new(),
//!                 usage: Usage::default(),
//!                 timings: Timings::default(),
//!             })),
//!         ])
//!     }
//! }
//!
//! /// A replica that is going away.
//! struct Draining;
//! impl Generate for Draining {
//!     fn generate(&self, _request: Request) -> EventStream {
//!         EventStream::failed(Error::ShutDown)
//!     }
//! }
//!
//! let router = Router::builder()
//!     .replica(Replica::new("old", Draining).model("small"))
//!     .replica(Replica::new("new", Says("hello")).model("small").model("large"))
//!     .strategy(LeastLoaded::new())
//!     .build()?;
//!
//! // "old" is asked first and fails; the stream goes on with "new".
//! let answer = router.generate(Request::text("Hi").model("small")).wait()?;
//! assert_eq!(answer.text(), "hello");
//!
//! let stats = router.stats();
//! assert_eq!((stats.replicas[0].dispatched, stats.replicas[0].failed), (1, 1));
//! assert_eq!((stats.replicas[1].dispatched, stats.replicas[1].failed), (1, 0));
//!
//! let refused = router.generate(Request::text("Hi").model("huge")).wait();
//! assert_eq!(
//!     refused,
//!     Err(Error::UnknownModel { name: "huge".into(), known: "large, small".into() })
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod admission;
mod attempt;
mod builder;
mod candidate;
mod estimate;
mod failover;
pub mod health;
pub mod limits;
mod load;
mod replica;
mod routed;
mod router;
mod stats;
mod strategy;
mod timer;

#[cfg(test)]
mod tests;

pub use builder::{BuildError, RouterBuilder};
pub use candidate::Candidate;
pub use estimate::estimated_tokens;
pub use replica::Replica;
pub use router::Router;
pub use stats::{ReplicaStats, RouterStats};
pub use strategy::{LeastLoaded, RoundRobin, Strategy};
pub use timer::{Alarm, ManualTimer, SystemTimer, Timer};
