//! How fast places become free, for the time that is told to those who are refused.

use std::time::Duration;

use llmserve_core::Time;

/// Part of the newest gap in the mean.
const NEWEST: f64 = 0.1;

/// The mean time from one end to the next while all places are taken.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Seconds.
    mean: Option<f64>,
    /// When the last one ended; none if not all places have been taken since.
    last: Option<Time>,
}

impl Rate {
    /// One has ended. `busy`: somebody waits for the place.
    pub(super) fn ended(&mut self, now: Time, busy: bool) {
        if let Some(last) = self.last {
            let gap = now.saturating_sub(last).as_secs_f64();
            self.mean = Some(match self.mean {
                Some(mean) => mean + NEWEST * (gap - mean),
                None => gap,
            });
        }
        self.last = busy.then_some(now);
    }

    /// How long until `waiting` have had a place; none before anything is known.
    pub(super) fn time_for(&self, waiting: usize) -> Option<Duration> {
        let seconds = self.mean? * waiting as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}
