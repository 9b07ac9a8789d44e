//! Choosing who answers: one [`Generate`](llmserve_core::Generate) in front of many.
//!
//! A [`Router`] stands before named replicas (engines, remote endpoints, caches, other routers:
//! anything that generates) and is itself something that generates, so layers nest:
//!
//! ```text
//!                      ┌───────────────────────── Router ─────────────────────────┐
//!                      │                                                          │
//!  generate(request) ──┼─► eligible ─────► Strategy ───► dispatch ──► replica "a" │
//!                      │   model, region,  who of them   counted      replica "b" │
//!                      │   health, limits  now?          at once      replica "c" │
//!                      │                      ▲                            │      │
//!                      │                      │   an error about the       │      │
//!                      │                      │   replica, before the      │      │
//!                      │                      └── first event: try another ┤      │
//!                      │                                                   │      │
//!  EventStream ◄───────┼── events, from the first on from one replica ◄────┘      │
//!                      └──────────────────────────────────────────────────────────┘
//! ```
//!
//! * A [`Replica`] is a name, a service, and what there is to know about it: models, region,
//!   capabilities, context, cost and more. They come, drain and go while the router runs; who is
//!   there at a moment is its [`Fleet`].
//! * Who may answer is a set of the fleet's [`Slot`]s that every limit of the request narrows. Data
//!   residency is one of them, and nothing widens the set again.
//! * A [`Strategy`] picks one of the [`Candidates`]; a host's own is one method.
//! * Decision and count are one step under one lock: a limit on what a replica has at once is never
//!   exceeded, however many threads dispatch. The count is given back when the answer ends, fails,
//!   panics or is dropped.
//! * Failover happens in the stream, never in `generate()`: a replica that fails before its first
//!   event with an error of its own (overloaded, shut down, model failure, panic) is replaced by
//!   another, each at most once. A request that is itself wrong fails at once. After the first
//!   event an answer goes on at a replica with the same weights, with the tokens there are, where
//!   that gives the same answer; else its error is passed on, and a half-told answer is never
//!   silently begun anew.
//! * [`health`] says who may be asked (breakers, health checks), [`reliability`] what happens when
//!   an answer does not come (timeouts, pauses, a retry budget, hedges).
//! * [`limits`] and [`admission`] are layers before a service: how much each caller may ask for, and
//!   how many requests run at once.
//!
//! More layers stand around routers and inside them: [`limits`] and [`admission`] before one;
//! [`tiers`] of small and large models; regions in a [`federation`]; a canary or a shadow by
//! [`split`]; and [`scale`] says how many replicas there should be.
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
mod ask;
mod availability;
mod candidates;
mod estimate;
mod failover;
pub mod federation;
mod fleet;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod health;
mod identify;
pub mod index;
#[cfg(feature = "kube")]
mod kubernetes;
pub mod limits;
mod load;
mod outcome;
pub mod pipeline;
mod random;
pub mod reliability;
#[cfg(feature = "http")]
pub mod remote;
mod replica;
mod ring;
mod router;
pub mod scale;
mod set;
pub mod simulation;
pub mod split;
mod stats;
pub mod strategy;
pub mod tiers;
mod timer;

#[cfg(test)]
mod tests;

/// The pages whose samples are compiled as tests of this crate.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../docs/limits.md")]
    struct Limits;
    #[doc = include_str!("../../docs/patterns.md")]
    struct Patterns;
    #[doc = include_str!("../../docs/routing.md")]
    struct Routing;
    #[cfg(all(feature = "gateway", feature = "kube"))]
    #[doc = include_str!("../../docs/http.md")]
    struct Http;
    #[cfg(all(feature = "gateway", feature = "kube"))]
    #[doc = include_str!("../../docs/scaling.md")]
    struct Scaling;
}

pub use ask::{Ask, Prepared};
pub use availability::{AlwaysAvailable, Availability};
pub use candidates::{Candidate, Candidates};
pub use estimate::{estimated_tokens, prompt_tokens};
pub use fleet::{Fleet, Slot};
pub use identify::{Identify, TextBlocks, TokenBlocks};
#[cfg(feature = "kube")]
pub use kubernetes::KubernetesError;
pub use outcome::{Answering, End, Outcome};
pub use replica::{Replica, ReplicaInfo};
pub use router::{Assigned, BuildError, Router, RouterBuilder, UnknownReplica};
pub use set::ReplicaSet;
pub use stats::{ReplicaStats, RouterStats};
pub use strategy::{
    Affinity, BestQuality, BoundedHash, Cheapest, KeyBy, KvAware, LatencyAware, LeastLoaded,
    LeastTokens, PowerOfTwo, PromptLength, Random, RoundRobin, Strategy, Weighted,
};
pub use timer::{Alarm, ManualTimer, SystemTimer, Timer};
