//! What is cached already.

use llmserve_core::SchedRequest;

use super::{Candidate, Policy, Rank};

/// Longest cached prefix first: requests that share a prefix are served one after the other, while
/// it is still cached.
///
/// In a queue of more than 128 it is first come, first served: looking every prefix up would cost
/// more than the order is worth. One that 128 others have overtaken is next. Preempted sequences
/// come before newcomers, whatever is cached of them.
///
/// The scheduler itself sees to twins, under any policy: while the prefix that a newcomer lacks is
/// being computed by a running sequence, the newcomer waits for it and passes those behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LongestPrefix;

impl Policy for LongestPrefix {
    fn rank(&self, _request: &SchedRequest) -> Rank {
        Rank::default()
    }

    fn window(&self) -> usize {
        128
    }

    fn review(&self, waiting: &Candidate) -> Rank {
        match waiting.preemptions {
            0 => Rank::new(-(waiting.cached as i64)),
            _ => Rank::new(i64::MIN),
        }
    }

    fn patience(&self) -> Option<usize> {
        Some(128)
    }
}
