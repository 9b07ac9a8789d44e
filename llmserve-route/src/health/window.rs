//! How many requests of late have failed.

use std::time::Duration;

use llmserve_core::Time;

/// Parts a window is cut into: what is old is forgotten a tenth of a window at a time.
const PARTS: u128 = 10;

/// Counts of the last window, in parts.
#[derive(Debug)]
pub(super) struct Window {
    part: Duration,
    counts: [Count; PARTS as usize],
    /// The number of the newest part since the clock's beginning.
    newest: u128,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) requests: u64,
    pub(super) failures: u64,
}

impl Window {
    pub(super) fn new(span: Duration) -> Self {
        Self {
            part: (span / PARTS as u32).max(Duration::from_nanos(1)),
            counts: Default::default(),
            newest: 0,
        }
    }

    pub(super) fn add(&mut self, failed: bool, now: Time) {
        self.forget(now);
        let count = &mut self.counts[(self.newest % PARTS) as usize];
        count.requests += 1;
        count.failures += u64::from(failed);
    }

    pub(super) fn total(&mut self, now: Time) -> Count {
        self.forget(now);
        self.counts
            .iter()
            .fold(Count::default(), |sum, count| Count {
                requests: sum.requests + count.requests,
                failures: sum.failures + count.failures,
            })
    }

    pub(super) fn clear(&mut self) {
        self.counts = Default::default();
    }

    fn forget(&mut self, now: Time) {
        let at = now.as_nanos() / self.part.as_nanos();
        let passed = at.saturating_sub(self.newest);
        for step in 1..=passed.min(PARTS) {
            self.counts[((self.newest + step) % PARTS) as usize] = Count::default();
        }
        // A clock read earlier than another's changes nothing.
        self.newest = self.newest.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_a_window_is_forgotten() {
        let mut window = Window::new(Duration::from_secs(10));
        let at = Duration::from_secs;
        for second in 0..30 {
            window.add(second % 2 == 0, at(second));
            let count = window.total(at(second));
            assert_eq!(count.requests, (second + 1).min(10), "{second}");
        }
        let count = window.total(at(29));
        assert_eq!((count.requests, count.failures), (10, 5));
        // Late news counts for now.
        window.add(true, at(3));
        assert_eq!(window.total(at(29)).requests, 11);
        assert_eq!(window.total(at(38)).requests, 2);
        assert_eq!(window.total(at(39)).requests, 0);
        assert_eq!(window.total(Time::MAX).requests, 0);
    }
}
