//! The request's own priority.

use llmserve_core::SchedRequest;

use super::{Policy, Rank};

/// By [`SchedRequest::priority`], lower first, then first come, first served. The lowest priority
/// (the highest number) yields first, of equal ones the last to come.
///
/// A sequence yields when blocks run out, not because a more important one waits; for that there
/// is [`Displacing`](super::Displacing).
///
/// ```
/// use llmserve_core::{SchedRequest, SequenceId};
/// use llmserve_sched::{Policy, Priority};
/// let mut request = SchedRequest::new(SequenceId::new(0, 0), 10, 10);
/// let normal = Priority.rank(&request);
/// request.priority = -1;
/// assert!(Priority.rank(&request) < normal);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Priority;

impl Policy for Priority {
    fn rank(&self, request: &SchedRequest) -> Rank {
        Rank::new(i64::from(request.priority))
    }
}
