//! Continuous batching: who computes how many tokens in the next step.
//!
//! There is no prefill phase and no decode phase. A sequence has *known* tokens (its prompt and
//! what it generated) and *computed* tokens (those whose keys and values are in the cache). Every
//! step has one budget of tokens, and every row of a step closes some of a sequence's gap:
//!
//! ```text
//!              known ─────────────────────────┐
//!   a prompt   ▓▓▓▓▓▓▓▓░░░░░░░░░░░░░░░░░░░░░░░░   gap 24: a chunk as long as the budget allows
//!   a decode   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓░   gap 1: one token, then a new one is sampled
//!              └─────── computed
//!
//!   submit ──► waiting ──admit──► running, in a ring ──commit──► ended
//!                 ▲                    │
//!                 └──── preempt ◄──────┘   out of KV blocks: the one with least to lose yields
//!
//!   plan:    1. every running sequence takes its gap from the budget;
//!               an allocation that fails preempts another;
//!            2. if nobody was preempted, waiting ones take what is left of the budget,
//!               of the seats (`max_num_seqs`) and of the KV blocks.
//!   commit:  seal ─► fork ─► append ─► end
//! ```
//!
//! | who waits for whom | is told by |
//! | --- | --- |
//! | requests of one tenant | a [`Policy`]: [`Fcfs`], [`Priority`], [`EarliestDeadline`], [`LongestPrefix`], [`ShortestPredicted`], [`Displacing`] around any but `LongestPrefix`, or your own in five lines |
//! | tenants | [`Fairness`]: turns, by tokens of service |
//! | newcomers, for the room that the running still need | [`Reservation`], and [`SchedulerConfig::watermark`] |
//!
//! A step in which some rows decode and one is a chunk of a long prompt is the normal case: it is
//! how decodes keep their pace while prompts are computed.
//!
//! [`ContinuousScheduler`] is deterministic. It reads no clock and draws no random number, so the
//! same calls give the same plans, and a simulation drives the very code that serves.
//!
//! ```
//! use llmserve_core::{Scheduler, StepPlan};
//! use llmserve_sched::{ContinuousScheduler, Priority};
//!
//! let scheduler = ContinuousScheduler::builder()
//!     .max_batched_tokens(512)
//!     .max_num_seqs(64)
//!     .policy(Priority)
//!     .build()?;
//! assert_eq!(scheduler.max_batched_tokens(), 512);
//! assert_eq!(scheduler.counts().waiting, 0);
//! # Ok::<(), llmserve_sched::BuildError>(())
//! ```
//!
//! What a policy or a limit does to latencies and throughput is seen without a model and without
//! waiting: a [`Simulation`] runs the scheduler and its KV manager in virtual time over random or
//! recorded traffic.
//!
//! Scheduling per iteration is Orca's (Yu et al., OSDI 2022), chunked prefill beside decodes is
//! Sarathi-Serve's (Agrawal et al., OSDI 2024), and the single token budget without phases,
//! preemption by recomputation and the order of a plan are those of vLLM's V1 scheduler.

#![forbid(unsafe_code)]

mod builder;
mod config;
mod fairness;
pub mod policy;
mod reservation;
mod scheduler;
pub mod simulation;
pub mod speculation;
#[cfg(test)]
mod testing;

pub use builder::{BuildError, SchedulerBuilder};
pub use config::SchedulerConfig;
pub use fairness::Fairness;
pub use policy::{
    Candidate, Displacing, EarliestDeadline, Fcfs, LongestPrefix, Policy, Priority, Rank,
    ShortestPredicted,
};
pub use reservation::Reservation;
pub use scheduler::ContinuousScheduler;
pub use simulation::Simulation;

/// How often a sequence is preempted before others are preferred as victims, and nobody displaces
/// it any more.
pub const MAX_PREEMPTIONS: u32 = 3;
