//! First come, first served.

use llmserve_core::SchedRequest;

use super::{Policy, Rank};

/// First come, first served: all ranks are equal, so the order of submission decides, and the
/// last to come is the first to yield. A request's own priority is not looked at.
///
/// ```
/// use llmserve_core::{SchedRequest, SequenceId};
/// use llmserve_sched::{Fcfs, Policy};
/// let mut request = SchedRequest::new(SequenceId::new(0, 0), 10, 10);
/// let rank = Fcfs.rank(&request);
/// request.priority = -5;
/// assert_eq!(Fcfs.rank(&request), rank);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Fcfs;

impl Policy for Fcfs {
    fn rank(&self, _request: &SchedRequest) -> Rank {
        Rank::default()
    }
}
