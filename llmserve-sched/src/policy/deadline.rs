//! The next deadline.

use llmserve_core::SchedRequest;

use super::{Policy, Rank};

/// Earliest deadline first; those without one come after those with one, as they arrived. One that
/// 1,024 others have overtaken is next, so that those without a deadline are served too.
///
/// A host that sets the deadline of interactive requests to, say, a second and none for the others
/// has two classes of service. What passes its deadline while it waits is not admitted any more.
///
/// ```
/// use std::time::Duration;
/// use llmserve_core::{SchedRequest, SequenceId};
/// use llmserve_sched::{EarliestDeadline, Policy};
/// let mut request = SchedRequest::new(SequenceId::new(0, 0), 10, 10);
/// let some_time = EarliestDeadline.rank(&request);
/// request.deadline = Some(Duration::from_secs(9));
/// let later = EarliestDeadline.rank(&request);
/// request.deadline = Some(Duration::from_secs(2));
/// assert!(EarliestDeadline.rank(&request) < later && later < some_time);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EarliestDeadline;

impl Policy for EarliestDeadline {
    fn rank(&self, request: &SchedRequest) -> Rank {
        let nanos = |at: llmserve_core::Time| i64::try_from(at.as_nanos()).unwrap_or(i64::MAX - 1);
        Rank::new(request.deadline.map_or(i64::MAX, nanos))
    }

    fn patience(&self) -> Option<usize> {
        Some(1024)
    }
}
