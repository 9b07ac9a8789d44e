//! Time, injected wherever a decision depends on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time since the clock's own beginning. Monotonic; nanosecond resolution.
pub type Time = Duration;

/// A source of monotonic time.
pub trait Clock: Send + Sync {
    /// Time since this clock began.
    fn now(&self) -> Time;
}

/// The machine's monotonic clock, beginning when it was made.
///
/// ```
/// use llmserve_core::{Clock, SystemClock};
/// let clock = SystemClock::new();
/// assert!(clock.now() <= clock.now());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    began: Instant,
}

impl SystemClock {
    /// A clock that begins now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        self.began.elapsed()
    }
}

/// A clock that moves only when told to, for tests and simulations.
///
/// ```
/// use std::time::Duration;
/// use llmserve_core::{Clock, ManualClock};
/// let clock = ManualClock::default();
/// clock.advance(Duration::from_millis(3));
/// assert_eq!(clock.now(), Duration::from_millis(3));
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
}

impl ManualClock {
    /// Moves time forward by `by`.
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}
