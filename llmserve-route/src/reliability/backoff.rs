//! How long to wait before another replica is tried.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ReliabilityError;

/// The pause before a retry: none before the first, for it goes to another replica; then growing,
/// each a random part of its length ("full jitter", Brooker, *Exponential Backoff and Jitter*,
/// 2015), so that requests that failed together do not come back together.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::reliability::Backoff;
/// let backoff = Backoff::default().base(Duration::from_millis(10));
/// assert_eq!(backoff.longest(1), Duration::ZERO);
/// assert_eq!(backoff.longest(2), Duration::from_millis(10));
/// assert_eq!(backoff.longest(4), Duration::from_millis(40));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Backoff {
    /// The longest pause before the first retry. Default: 0.
    pub first: Duration,
    /// The longest pause before the second. Default: 25 ms.
    pub base: Duration,
    /// How much longer each next one may be; at least 1. Default: 2.
    pub factor: f64,
    /// No pause is longer. Default: 1 s.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::ZERO,
            base: Duration::from_millis(25),
            factor: 2.0,
            most: Duration::from_secs(1),
        }
    }
}

/// Setters: each replaces the field of its name.
impl Backoff {
    /// See [`Backoff::first`].
    pub fn first(mut self, pause: Duration) -> Self {
        self.first = pause;
        self
    }

    /// See [`Backoff::base`].
    pub fn base(mut self, pause: Duration) -> Self {
        self.base = pause;
        self
    }

    /// See [`Backoff::factor`].
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// See [`Backoff::most`].
    pub fn most(mut self, pause: Duration) -> Self {
        self.most = pause;
        self
    }
}

impl Backoff {
    /// The longest that retry number `retry`, from 1, is waited for.
    pub fn longest(&self, retry: usize) -> Duration {
        if retry <= 1 {
            return self.first.min(self.most);
        }
        let steps = i32::try_from(retry - 2).unwrap_or(i32::MAX);
        let seconds = self.base.as_secs_f64() * self.factor.powi(steps);
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(self.most)
            .min(self.most)
    }

    /// A random part of that: `part` is in `0..1`.
    pub(crate) fn pause(&self, retry: usize, part: f64) -> Duration {
        self.longest(retry).mul_f64(part.clamp(0.0, 1.0))
    }

    pub(crate) fn check(&self) -> Result<(), ReliabilityError> {
        if self.factor.is_finite() && self.factor >= 1.0 {
            return Ok(());
        }
        let reason = "each pause must be at least as long as the one before";
        Err(ReliabilityError::new(
            "Backoff::factor",
            self.factor,
            reason,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_most_and_no_number_is_too_large() {
        let backoff = Backoff::default();
        let ms = |retry| backoff.longest(retry).as_millis();
        assert_eq!([1, 2, 3, 7, 8, 9].map(ms), [0, 25, 50, 800, 1_000, 1_000]);
        assert_eq!(ms(usize::MAX), 1_000);
        assert_eq!(backoff.pause(3, 0.5).as_millis(), 25);
        assert!(Backoff::default().factor(0.9).check().is_err());
        assert!(Backoff::default().factor(f64::NAN).check().is_err());
    }
}
