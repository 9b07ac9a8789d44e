//! The circuit breaker (Nygard, *Release It!*): a replica that keeps failing is given a rest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llmserve_core::Time;
use parking_lot::Mutex;

use super::config::{BreakerConfig, BreakerError};
use super::window::Window;

/// [`Breaker::word`] of one that is closed.
const CLOSED: u64 = 0;
/// And of one that a health check holds open.
const UNWELL: u64 = u64::MAX;

/// Whether a replica may be asked, learnt from how its requests end.
///
/// It has no clock: whoever asks says what time it is. Whether it is closed is one atomic read.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::health::{Breaker, BreakerConfig, BreakerState};
/// let breaker = Breaker::new(BreakerConfig::default().consecutive(2))?;
/// let at = Duration::from_secs;
/// for _ in 0..2 {
///     let permit = breaker.acquire(at(1)).expect("closed");
///     permit.failed(at(1), None);
/// }
/// assert_eq!(breaker.state(at(2)), BreakerState::Open { until: Some(at(6)) });
/// assert!(breaker.acquire(at(2)).is_none());
/// let probe = breaker.acquire(at(6)).expect("half open");
/// assert!(breaker.acquire(at(6)).is_none(), "one probe at a time");
/// probe.succeeded(at(7));
/// assert_eq!(breaker.state(at(7)), BreakerState::Closed);
/// # Ok::<(), llmserve_route::health::BreakerError>(())
/// ```
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    /// [`CLOSED`], [`UNWELL`], or when it is half open, in nanoseconds: state and time in one, so
    /// that nobody reads the one of now with the other of before.
    word: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    window: Window,
    /// Failures in a row.
    failures: u32,
    /// Times it opened since it was last closed.
    opened: u32,
    /// Probes that are under way, and that have succeeded, since it was last opened.
    probing: u32,
    succeeded: u32,
    /// Grows with each change of state. What was permitted in an earlier one is no news of this
    /// one.
    epoch: u64,
}

/// What a [`Breaker`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// All requests.
    Closed,
    /// None.
    Open {
        /// Until then; none while a health check says that it is not well.
        until: Option<Time>,
    },
    /// A few, to see.
    HalfOpen,
}

/// Leave for one request. How it ended is said once; dropped without a word, it says nothing, and a
/// probe may be made again.
#[derive(Debug)]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    leave: Leave,
}

/// A [`Permit`] without its borrow, for whoever keeps breaker and permit in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leave {
    epoch: u64,
    probe: bool,
}

impl Leave {
    /// As a number that is not 0.
    pub(crate) fn to_bits(self) -> u64 {
        (self.epoch << 2) | (u64::from(self.probe) << 1) | 1
    }

    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        (bits & 1 == 1).then_some(Self {
            epoch: bits >> 2,
            probe: bits & 2 != 0,
        })
    }
}

impl Breaker {
    /// One that is closed.
    ///
    /// # Errors
    /// A field that cannot be.
    pub fn new(config: BreakerConfig) -> Result<Self, BreakerError> {
        config.check()?;
        Ok(Self {
            word: AtomicU64::new(CLOSED),
            inner: Mutex::new(Inner {
                window: Window::new(config.window),
                failures: 0,
                opened: 0,
                probing: 0,
                succeeded: 0,
                epoch: 0,
            }),
            config,
        })
    }

    /// What it allows now.
    pub fn state(&self, now: Time) -> BreakerState {
        match self.word.load(Ordering::Acquire) {
            CLOSED => BreakerState::Closed,
            UNWELL => BreakerState::Open { until: None },
            until if nanos(now) < until => BreakerState::Open {
                until: Some(Duration::from_nanos(until)),
            },
            _ => BreakerState::HalfOpen,
        }
    }

    /// Whether [`acquire`](Self::acquire) would succeed.
    pub fn allows(&self, now: Time) -> bool {
        match self.state(now) {
            BreakerState::Closed => true,
            BreakerState::Open { .. } => false,
            BreakerState::HalfOpen => self.has_probe(&self.inner.lock()),
        }
    }

    /// Leave for one request, or none.
    pub fn acquire(&self, now: Time) -> Option<Permit<'_>> {
        let leave = self.leave(now)?;
        Some(Permit {
            breaker: self,
            leave,
        })
    }

    pub(crate) fn leave(&self, now: Time) -> Option<Leave> {
        let mut inner = self.inner.lock();
        let probe = match self.state(now) {
            BreakerState::Closed => false,
            BreakerState::Open { .. } => return None,
            BreakerState::HalfOpen => {
                if !self.has_probe(&inner) {
                    return None;
                }
                inner.probing += 1;
                true
            }
        };
        Some(Leave {
            epoch: inner.epoch,
            probe,
        })
    }

    fn has_probe(&self, inner: &Inner) -> bool {
        // No more than are needed: the one that closes it may be among those under way.
        let needed = self.config.successes.saturating_sub(inner.succeeded);
        inner.probing < self.config.probes.min(needed)
    }

    pub(crate) fn succeeded(&self, leave: Leave, now: Time) {
        let mut inner = self.inner.lock();
        if inner.epoch != leave.epoch {
            return;
        }
        inner.window.add(false, now);
        inner.failures = 0;
        if leave.probe {
            inner.probing -= 1;
            inner.succeeded += 1;
            if inner.succeeded >= self.config.successes {
                self.close(&mut inner);
            }
        }
    }

    pub(crate) fn failed(&self, leave: Leave, now: Time, retry_after: Option<Duration>) {
        let mut inner = self.inner.lock();
        if inner.epoch != leave.epoch {
            return;
        }
        inner.window.add(true, now);
        inner.failures = inner.failures.saturating_add(1);
        let count = inner.window.total(now);
        let often = count.requests >= u64::from(self.config.min_requests)
            && count.failures as f64 >= self.config.failure_rate * count.requests as f64;
        let in_a_row = inner.failures >= self.config.consecutive;
        if leave.probe || often || in_a_row || retry_after.is_some() {
            self.open(&mut inner, now, retry_after);
        }
    }

    /// Neither good nor bad news: it was cancelled, or the request itself was wrong.
    pub(crate) fn withdrew(&self, leave: Leave) {
        let mut inner = self.inner.lock();
        if inner.epoch == leave.epoch && leave.probe {
            inner.probing -= 1;
        }
    }

    /// What a health check says. One that is not well is open until a check says otherwise; one
    /// that is well again is closed.
    pub fn check(&self, well: bool) {
        let mut inner = self.inner.lock();
        let unwell = self.word.load(Ordering::Acquire) == UNWELL;
        match well {
            true if unwell => self.close(&mut inner),
            false if !unwell => {
                self.word.store(UNWELL, Ordering::Release);
                inner.begin_epoch();
            }
            _ => {}
        }
    }

    fn close(&self, inner: &mut Inner) {
        self.word.store(CLOSED, Ordering::Release);
        inner.begin_epoch();
        inner.opened = 0;
        inner.window.clear();
    }

    fn open(&self, inner: &mut Inner, now: Time, retry_after: Option<Duration>) {
        let doubled = 1u32.checked_shl(inner.opened).unwrap_or(u32::MAX);
        let most = self.config.open_for_at_most;
        let rest = self.config.open_for.saturating_mul(doubled);
        let rest = rest.max(retry_after.unwrap_or_default()).min(most);
        inner.opened = inner.opened.saturating_add(1);
        let until = nanos(now.saturating_add(rest)).clamp(CLOSED + 1, UNWELL - 1);
        self.word.store(until, Ordering::Release);
        inner.begin_epoch();
    }
}

impl Inner {
    fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.failures = 0;
        self.probing = 0;
        self.succeeded = 0;
    }
}

impl Permit<'_> {
    /// The replica answered.
    pub fn succeeded(self, now: Time) {
        self.breaker.succeeded(self.leave, now);
        std::mem::forget(self);
    }

    /// It failed. Where it said when to come again, it is not asked before that, however seldom it
    /// fails.
    pub fn failed(self, now: Time, retry_after: Option<Duration>) {
        self.breaker.failed(self.leave, now, retry_after);
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.breaker.withdrew(self.leave);
    }
}

fn nanos(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    fn breaker(config: BreakerConfig) -> Breaker {
        Breaker::new(config).unwrap()
    }

    fn fail(breaker: &Breaker, now: Time) {
        breaker.acquire(now).unwrap().failed(now, None);
    }

    fn succeed(breaker: &Breaker, now: Time) {
        breaker.acquire(now).unwrap().succeeded(now);
    }

    #[test]
    fn failures_in_a_row_open_and_a_success_between_them_does_not() {
        let breaker = breaker(BreakerConfig::default().consecutive(3).min_requests(1_000));
        for _ in 0..20 {
            fail(&breaker, at(1));
            fail(&breaker, at(1));
            succeed(&breaker, at(1));
        }
        assert_eq!(breaker.state(at(1)), BreakerState::Closed);
        (0..3).for_each(|_| fail(&breaker, at(1)));
        assert!(!breaker.allows(at(1)) && breaker.acquire(at(5)).is_none());
    }

    #[test]
    fn a_bad_rate_opens_when_it_says_something() {
        let config = BreakerConfig::default().consecutive(1_000).min_requests(10);
        let breaker = breaker(config.failure_rate(0.5));
        for _ in 0..4 {
            fail(&breaker, at(0));
        }
        for _ in 0..5 {
            succeed(&breaker, at(1));
        }
        // The tenth: five of ten.
        fail(&breaker, at(2));
        assert_eq!(
            breaker.state(at(2)),
            BreakerState::Open { until: Some(at(7)) }
        );
    }

    #[test]
    fn old_failures_are_forgotten() {
        let config = BreakerConfig::default().consecutive(1_000).min_requests(4);
        let breaker = breaker(config.window(Duration::from_secs(10)));
        for second in 0..100 {
            fail(&breaker, at(second * 4));
        }
        assert_eq!(breaker.state(at(400)), BreakerState::Closed);
    }

    #[test]
    fn each_rest_is_twice_as_long_until_it_recovers() {
        let config = BreakerConfig::default().consecutive(1);
        let breaker = breaker(config.open_for_at_most(Duration::from_secs(15)));
        let mut now = at(100);
        for rest in [5, 10, 15, 15] {
            fail(&breaker, now);
            let until = now + at(rest);
            assert_eq!(
                breaker.state(now),
                BreakerState::Open { until: Some(until) }
            );
            assert!(breaker.acquire(until - Duration::from_nanos(1)).is_none());
            now = until;
        }
        succeed(&breaker, now);
        fail(&breaker, now);
        let until = Some(now + at(5));
        assert_eq!(breaker.state(now), BreakerState::Open { until });
    }

    #[test]
    fn probes_are_counted_and_must_succeed() {
        let config = BreakerConfig::default()
            .consecutive(1)
            .probes(2)
            .successes(3);
        let breaker = breaker(config);
        fail(&breaker, at(0));
        let now = at(5);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        let (first, second) = (breaker.acquire(now).unwrap(), breaker.acquire(now).unwrap());
        assert!(breaker.acquire(now).is_none() && !breaker.allows(now));
        first.succeeded(now);
        // One that says nothing gives its place to another.
        drop(second);
        let third = breaker.acquire(now).unwrap();
        let fourth = breaker.acquire(now).unwrap();
        third.succeeded(now);
        // Two have succeeded, one is under way: no more are needed.
        assert!(breaker.acquire(now).is_none());
        fourth.succeeded(now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        // A probe that fails opens it, whatever others said.
        fail(&breaker, now);
        let now = at(10);
        succeed(&breaker, now);
        fail(&breaker, now);
        let until = Some(at(20));
        assert_eq!(breaker.state(now), BreakerState::Open { until });
    }

    #[test]
    fn late_news_of_an_earlier_state_is_no_news() {
        let breaker = breaker(BreakerConfig::default().consecutive(1));
        let slow: Vec<_> = (0..4).map(|_| breaker.acquire(at(0)).unwrap()).collect();
        fail(&breaker, at(1));
        let mut slow = slow.into_iter();
        // Success of a request of before does not close it, nor does a failure prolong it.
        slow.next().unwrap().succeeded(at(2));
        slow.next().unwrap().failed(at(3), None);
        let until = Some(at(6));
        assert_eq!(breaker.state(at(3)), BreakerState::Open { until });
        let probe = breaker.acquire(at(6)).unwrap();
        drop(slow);
        assert!(breaker.acquire(at(6)).is_none());
        probe.succeeded(at(6));
        assert_eq!(breaker.state(at(6)), BreakerState::Closed);
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let breaker = breaker(BreakerConfig::default());
        let asked = |seconds| Some(Duration::from_secs(seconds));
        breaker.acquire(at(0)).unwrap().failed(at(0), asked(30));
        let until = Some(at(30));
        assert_eq!(breaker.state(at(1)), BreakerState::Open { until });
        breaker
            .acquire(at(30))
            .unwrap()
            .failed(at(30), asked(1_000_000));
        let until = Some(at(90));
        assert_eq!(breaker.state(at(31)), BreakerState::Open { until });
    }

    #[test]
    fn a_health_check_has_the_last_word() {
        let breaker = breaker(BreakerConfig::default().consecutive(1));
        let before = breaker.acquire(at(0)).unwrap();
        breaker.check(false);
        assert_eq!(breaker.state(Time::MAX), BreakerState::Open { until: None });
        before.succeeded(at(1));
        assert!(!breaker.allows(at(1_000)));
        breaker.check(true);
        assert!(breaker.allows(at(2)));
        // A check that finds it well says nothing about how its requests fail.
        fail(&breaker, at(3));
        breaker.check(true);
        assert!(!breaker.allows(at(4)));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let bad = |config: BreakerConfig| Breaker::new(config).unwrap_err().field;
        let config = BreakerConfig::default;
        assert_eq!(bad(config().consecutive(0)), "consecutive");
        assert_eq!(bad(config().min_requests(0)), "min_requests");
        assert_eq!(bad(config().probes(0)), "probes");
        assert_eq!(bad(config().successes(0)), "successes");
        assert_eq!(bad(config().failure_rate(f64::NAN)), "failure_rate");
        assert_eq!(bad(config().failure_rate(1.1)), "failure_rate");
        assert_eq!(bad(config().window(Duration::ZERO)), "window");
        assert_eq!(bad(config().open_for(Duration::MAX)), "open_for");
    }

    #[test]
    fn the_edges_of_time() {
        let breaker = breaker(
            BreakerConfig::default()
                .consecutive(1)
                .open_for(Duration::ZERO),
        );
        fail(&breaker, Time::ZERO);
        assert_eq!(breaker.state(at(1)), BreakerState::HalfOpen);
        fail(&breaker, Time::MAX);
        assert_eq!(breaker.state(Time::MAX), BreakerState::HalfOpen);
        succeed(&breaker, Time::MAX);
        assert_eq!(breaker.state(Time::MAX), BreakerState::Closed);
    }
}
