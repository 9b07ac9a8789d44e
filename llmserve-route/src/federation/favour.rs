//! Whether a region has been well for long enough.

use std::time::Duration;

use llmserve_core::Time;

/// What is remembered of a replica's health, beyond whether it may be asked.
///
/// Two thresholds, so that a region that comes and goes does not take the traffic with it each
/// time: out after so many failures in a row, back after so long without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Favour {
    /// Failures since the last success.
    failures: u32,
    /// Out of favour until then.
    out_until: Option<Time>,
}

impl Favour {
    /// A request was answered.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A request failed.
    pub(super) fn failed(&mut self, now: Time, failover_after: u32, failback_after: Duration) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= failover_after || self.is_out(now) {
            self.send_out(now, failback_after);
        }
    }

    /// It is out of favour from now on.
    pub(super) fn send_out(&mut self, now: Time, failback_after: Duration) {
        self.out_until = Some(now.saturating_add(failback_after));
    }

    /// Whether it is out of favour.
    pub(super) fn is_out(&self, now: Time) -> bool {
        self.out_until.is_some_and(|until| now < until)
    }
}
