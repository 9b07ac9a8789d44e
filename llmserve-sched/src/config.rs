//! What a scheduler is told once.

use std::time::Duration;

use crate::fairness::Fairness;
use crate::reservation::Reservation;

/// Limits of a [`ContinuousScheduler`](crate::ContinuousScheduler).
///
/// ```
/// use llmserve_sched::{ContinuousScheduler, SchedulerConfig};
/// let config = SchedulerConfig { max_num_seqs: 8, ..SchedulerConfig::default() };
/// assert_eq!(config.max_batched_tokens, 2048);
/// let scheduler = ContinuousScheduler::builder().config(config).build()?;
/// # Ok::<(), llmserve_sched::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Most tokens one step computes, all rows together. Default 2,048; at least 1. It may be
    /// smaller than [`max_num_seqs`](Self::max_num_seqs): running sequences then take turns.
    pub max_batched_tokens: usize,
    /// Most sequences that run at once. A request for `n` choices takes `n` seats from its
    /// admission on. Default 256; at least 1.
    pub max_num_seqs: usize,
    /// Most sequences that may wait when another is submitted; none for no limit. Default 4,096;
    /// at least 1.
    pub max_queue: Option<usize>,
    /// Most prompt tokens that may wait, with those of the one submitted; none for no limit. One
    /// request may wait alone whatever its length. Default none; at least 1.
    pub max_queue_tokens: Option<usize>,
    /// Most tokens of one sequence in one step, where shorter steps are wanted than the budget's:
    /// that a long prompt leaves budget to those who wait is seen to without it. Default none; at
    /// least 1. Needs [`chunked_prefill`](Self::chunked_prefill).
    pub long_prefill_threshold: Option<usize>,
    /// Whether a prompt may be computed over several steps. Default true. If not, a prompt waits
    /// for a step that has budget for all of it, and one longer than the budget is refused. Two
    /// things are still split, because there is no other way: a request's own
    /// [`max_chunk`](llmserve_core::SchedRequest::max_chunk), and a preempted sequence that has
    /// grown beyond the budget.
    pub chunked_prefill: bool,
    /// Share of all KV blocks, `0.0..1.0`, that admitting a newcomer must leave free, so that
    /// those who run can grow. Rounded down to whole blocks. Sequences that were preempted are
    /// not subject to it, nor is anyone while nothing runs. Default 0.01.
    pub watermark: f64,
    /// What admission keeps for the tokens that running sequences may still generate. Default as
    /// [`Reservation::default`]; none admits as long as prompts fit, and preempts more. Nothing is
    /// kept while nothing runs.
    pub reservation: Option<Reservation>,
    /// How long newcomers may be held back for a fuller batch, counted from the first plan that
    /// sees one waiting. They are let in sooner when they fill the step's budget or the free seats.
    /// Running sequences never wait for it, nor do preempted ones. Default 0: not at all.
    pub admission_delay: Duration,
    /// Whether tenants take turns, and how. Default none: all tenants are one queue.
    pub fairness: Option<Fairness>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_batched_tokens: 2048,
            max_num_seqs: 256,
            max_queue: Some(4096),
            max_queue_tokens: None,
            long_prefill_threshold: None,
            chunked_prefill: true,
            watermark: 0.01,
            reservation: Some(Reservation::default()),
            admission_delay: Duration::ZERO,
            fairness: None,
        }
    }
}
