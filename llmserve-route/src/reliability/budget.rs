//! How many retries there may be in all.

use std::time::Duration;

use llmserve_core::Time;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::ReliabilityError;

/// Most that can be saved up, in seconds of the least rate and in retries earned by requests.
const SAVED: f64 = 10.0;

/// A bound on retries and hedges over all requests, so that a fleet in trouble is not asked several
/// times as much as usual (Finagle's `RetryBudget`): a part of the requests, and a few a second
/// where requests are few.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryBudget {
    /// Retries for each request, at least 0. Default: 0.2.
    pub ratio: f64,
    /// Retries a second that are always allowed, at least 0. Default: 10.
    pub per_second: f64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            per_second: 10.0,
        }
    }
}

/// Setters: each replaces the field of its name.
impl RetryBudget {
    /// See [`RetryBudget::ratio`].
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// See [`RetryBudget::per_second`].
    pub fn per_second(mut self, retries: f64) -> Self {
        self.per_second = retries;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ReliabilityError> {
        for (field, value) in [
            ("RetryBudget::ratio", self.ratio),
            ("RetryBudget::per_second", self.per_second),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                let reason = "it must be a number, 0 or more";
                return Err(ReliabilityError::new(field, value, reason));
            }
        }
        Ok(())
    }
}

/// What is left of it.
#[derive(Debug)]
pub(crate) struct Budget {
    config: RetryBudget,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Retries that the passing of time allows, and when that was so.
    timed: f64,
    at: Time,
    /// Retries that requests have earned.
    earned: f64,
}

impl Budget {
    pub(crate) fn new(config: RetryBudget) -> Self {
        let state = State {
            timed: config.per_second * SAVED,
            at: Time::ZERO,
            earned: 0.0,
        };
        Self {
            config,
            state: Mutex::new(state),
        }
    }

    /// A request came.
    pub(crate) fn earn(&self) {
        let mut state = self.state.lock();
        // What a hundred requests earn, or ten retries, is the most that is saved.
        let most = (self.config.ratio * 100.0).max(SAVED);
        state.earned = (state.earned + self.config.ratio).min(most);
    }

    /// Whether there may be one more retry now; then there is one less.
    pub(crate) fn spend(&self, now: Time) -> bool {
        let mut state = self.state.lock();
        let passed = now.saturating_sub(state.at).min(Duration::from_secs(3_600));
        state.at = state.at.max(now);
        let most = self.config.per_second * SAVED;
        let refilled = state.timed + passed.as_secs_f64() * self.config.per_second;
        state.timed = refilled.min(most);
        let State { timed, earned, .. } = &mut *state;
        for left in [earned, timed] {
            // Sums of fractions miss whole numbers by a hair.
            if *left >= 1.0 - 1e-9 {
                *left -= 1.0;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(budget: &Budget, now: Time) -> usize {
        (0..10_000).take_while(|_| budget.spend(now)).count()
    }

    #[test]
    fn retries_are_a_part_of_the_requests_and_a_few_a_second() {
        let budget = Budget::new(RetryBudget::default().ratio(0.1).per_second(2.0));
        let at = Duration::from_secs;
        assert_eq!(spent(&budget, at(0)), 20);
        (0..50).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, at(0)), 5);
        assert_eq!(spent(&budget, at(3)), 6);
        // What is saved has a bound, and so has time.
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, Time::MAX), 10 + 20);
        assert_eq!(spent(&budget, at(5)), 0);
    }

    #[test]
    fn none_at_all_is_possible() {
        let budget = Budget::new(RetryBudget::default().ratio(0.0).per_second(0.0));
        (0..100).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, Duration::from_secs(100)), 0);
        assert!(RetryBudget::default().ratio(-1.0).check().is_err());
        assert!(RetryBudget::default().per_second(f64::NAN).check().is_err());
    }
}
