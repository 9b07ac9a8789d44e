//! Waiting a little for a fuller batch.

use std::time::Duration;

use llmserve_core::Time;

/// Since when newcomers are held back.
#[derive(Debug, Default)]
pub(super) struct Delay {
    since: Option<Time>,
}

impl Delay {
    /// Whether newcomers are held back in the plan of `now`. `full` says that more of them would
    /// not fit a step anyway.
    ///
    /// The wait begins with the first plan that sees somebody waiting and ends when they have been
    /// let in; so the first of them waits for `delay`, and the others for less.
    pub(super) fn holds(&mut self, delay: Duration, now: Time, waiting: bool, full: bool) -> bool {
        if delay.is_zero() || !waiting {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        !full && now.saturating_sub(since) < delay
    }

    /// No newcomer waits any more: whoever comes next waits anew. Those for whom there was no room
    /// when the wait was over have waited.
    pub(super) fn over(&mut self) {
        self.since = None;
    }
}
