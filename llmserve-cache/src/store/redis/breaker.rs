//! Not asking a server that does not answer.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After so many failures in a row nobody is let through for a while, then one at a time to try.
pub(super) struct Breaker {
    most: u32,
    cooldown: Duration,
    began: Instant,
    in_a_row: AtomicU32,
    /// Milliseconds since `began`; 0 is closed: everybody passes.
    open_until: AtomicU64,
}

impl Breaker {
    pub(super) fn new(most: u32, cooldown: Duration) -> Self {
        Self {
            most,
            cooldown,
            began: Instant::now(),
            in_a_row: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
        }
    }

    /// Whether a lookup would be turned away.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.since(now) < self.open_until.load(Ordering::Relaxed)
    }

    /// Whether this lookup may be tried. Once the time is over one may in every cooldown.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let since = self.since(now);
        if since < until {
            return false;
        }
        let next = self.after_cooldown(since);
        let order = Ordering::Relaxed;
        let taken = self.open_until.compare_exchange(until, next, order, order);
        taken.is_ok()
    }

    pub(super) fn succeeded(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.open_until.store(0, Ordering::Relaxed);
        }
    }

    /// True if it is open now.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let before = self.in_a_row.load(Ordering::Relaxed);
        self.in_a_row
            .store(before.saturating_add(1), Ordering::Relaxed);
        let opens = before.saturating_add(1) >= self.most;
        if opens {
            let until = self.after_cooldown(self.since(now));
            self.open_until.store(until, Ordering::Relaxed);
        }
        opens
    }

    fn since(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    fn after_cooldown(&self, since: u64) -> u64 {
        let cooldown = u64::try_from(self.cooldown.as_millis()).unwrap_or(u64::MAX);
        since.saturating_add(cooldown).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_try() {
        let breaker = Breaker::new(3, Duration::from_millis(100));
        let at = |ms| breaker.began + Duration::from_millis(ms);
        assert!(!breaker.failed(at(0)) && !breaker.failed(at(0)));
        breaker.succeeded();
        assert!(!breaker.failed(at(1)) && !breaker.failed(at(1)));
        assert!(breaker.admits(at(1)) && !breaker.is_open(at(1)));

        assert!(breaker.failed(at(2)));
        assert!(breaker.is_open(at(101)) && !breaker.admits(at(101)));
        // One to try, and no second while it does.
        assert!(!breaker.is_open(at(102)) && breaker.admits(at(102)));
        assert!(!breaker.admits(at(102)) && !breaker.admits(at(201)));
        // One that was let through and never told what came of it does not keep it shut.
        assert!(breaker.admits(at(202)));
        assert!(breaker.failed(at(210)));
        assert!(!breaker.admits(at(309)) && breaker.admits(at(310)));
        breaker.succeeded();
        assert!(breaker.admits(at(310)) && breaker.admits(at(310)));
        assert!(!breaker.failed(at(311)));

        let once = Breaker::new(1, Duration::MAX);
        assert!(once.failed(once.began + Duration::from_secs(1)));
        assert!(once.is_open(once.began + Duration::from_secs(1_000_000_000)));
    }
}
