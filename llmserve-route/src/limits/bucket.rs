//! The arithmetic of a token bucket, without rounding.
//!
//! What is kept is the bucket's *debt*: what was taken and is not refilled yet. It is counted in
//! parts of which each unit has as many as the period has nanoseconds; then a nanosecond refills
//! exactly `limit` parts, and no rate, however odd, loses anything.

use std::time::Duration;

use llmserve_core::Time;

use super::rate::Rate;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    debt: u128,
    /// When that was so.
    at: Time,
}

/// What was owed when something was taken, and when that was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    debt: u128,
    at: Time,
}

impl Bucket {
    /// Right after something was taken.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            debt: self.debt,
            at: self.at,
        }
    }

    /// Takes `units` or says how long to wait until they are there: none if they never are.
    pub(super) fn take(
        &mut self,
        rate: &Rate,
        units: u64,
        now: Time,
    ) -> Result<(), Option<Duration>> {
        self.refill(rate, now);
        let asked = parts(rate, units);
        let room = parts(rate, rate.most_at_once());
        if asked > room {
            return Err(None);
        }
        match (self.debt + asked).checked_sub(room) {
            None | Some(0) => {
                self.debt += asked;
                Ok(())
            }
            Some(missing) => {
                let wait = missing.div_ceil(u128::from(rate.limit));
                Err(Some(nanoseconds(wait)))
            }
        }
    }

    /// Takes `units` that have been spent already; whoever comes next waits for it.
    pub(super) fn spend(&mut self, rate: &Rate, units: u64, now: Time) {
        self.refill(rate, now);
        self.debt = self.debt.saturating_add(parts(rate, units));
    }

    /// Gives back `units` that were taken. A full bucket stays full.
    pub(super) fn give_back(&mut self, rate: &Rate, units: u64, now: Time) {
        self.refill(rate, now);
        self.debt = self.debt.saturating_sub(parts(rate, units));
    }

    /// Gives back `units` of what was taken at `mark`, as far as they have not been refilled since:
    /// those are there already, and twice would be more than a bucket holds.
    pub(super) fn give_back_since(&mut self, mark: Mark, rate: &Rate, units: u64, now: Time) {
        self.refill(rate, now);
        let left = mark.debt.saturating_sub(refilled(rate, now, mark.at));
        self.debt = self.debt.saturating_sub(parts(rate, units).min(left));
    }

    /// Whether it is full, like one that was never used.
    pub(super) fn is_full(&mut self, rate: &Rate, now: Time) -> bool {
        self.refill(rate, now);
        self.debt == 0
    }

    /// A time before the last one changes nothing: threads read the clock before they wait for
    /// their turn.
    fn refill(&mut self, rate: &Rate, now: Time) {
        if now >= self.at {
            self.debt = self.debt.saturating_sub(refilled(rate, now, self.at));
            self.at = now;
        }
    }
}

fn refilled(rate: &Rate, now: Time, since: Time) -> u128 {
    let passed = now.saturating_sub(since).as_nanos();
    passed.saturating_mul(u128::from(rate.limit))
}

fn parts(rate: &Rate, units: u64) -> u128 {
    u128::from(units) * rate.per.duration().as_nanos()
}

fn nanoseconds(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::rate::Per;
    use super::*;

    const NS: Duration = Duration::from_nanos(1);

    #[test]
    fn an_odd_rate_loses_nothing() {
        // 7 a minute: a unit takes 8,571,428,571.43 ns.
        let rate = Rate::new(7, Per::Minute).burst(1);
        let mut bucket = Bucket::default();
        let mut now = Time::ZERO;
        let mut passed = 0;
        while now < Duration::from_secs(6_000) {
            match bucket.take(&rate, 1, now) {
                Ok(()) => passed += 1,
                Err(wait) => {
                    let wait = wait.unwrap();
                    // Neither earlier nor later.
                    assert!(bucket.take(&rate, 1, now + wait - NS).is_err());
                    now += wait;
                }
            }
        }
        assert_eq!(passed, 700);
    }

    #[test]
    fn more_than_fits_never_passes() {
        let rate = Rate::new(10, Per::Second).burst(4);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(&rate, 5, Time::ZERO), Err(None));
        assert_eq!(bucket.take(&rate, 4, Time::ZERO), Ok(()));
        let wait = Duration::from_millis(100);
        assert_eq!(bucket.take(&rate, 1, Time::ZERO), Err(Some(wait)));
    }

    #[test]
    fn what_is_given_back_can_be_taken_and_no_more() {
        let rate = Rate::new(10, Per::Second);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(&rate, 10, Time::ZERO), Ok(()));
        bucket.give_back(&rate, 3, Time::ZERO);
        assert_eq!(bucket.take(&rate, 3, Time::ZERO), Ok(()));
        assert!(bucket.take(&rate, 1, Time::ZERO).is_err());
        bucket.give_back(&rate, 1_000, Time::ZERO);
        assert!(bucket.is_full(&rate, Time::ZERO));
        assert_eq!(bucket.take(&rate, 10, Time::ZERO), Ok(()));
        assert!(bucket.take(&rate, 1, Time::ZERO).is_err());
    }

    #[test]
    fn what_was_refilled_is_not_given_back_as_well() {
        let rate = Rate::new(10, Per::Second);
        let at = Duration::from_millis;
        let mut bucket = Bucket::default();
        bucket.take(&rate, 10, at(0)).unwrap();
        let mark = bucket.mark();
        // 7 of the 10 are refilled, and taken by somebody else; then it turns out that it was 2.
        bucket.take(&rate, 7, at(700)).unwrap();
        bucket.give_back_since(mark, &rate, 8, at(700));
        assert!(bucket.take(&rate, 4, at(700)).is_err());
        bucket.take(&rate, 3, at(700)).unwrap();
        // All of it is refilled.
        let mut bucket = Bucket::default();
        bucket.take(&rate, 10, at(0)).unwrap();
        let mark = bucket.mark();
        bucket.take(&rate, 10, at(5_000)).unwrap();
        bucket.give_back_since(mark, &rate, 8, at(5_000));
        assert!(bucket.take(&rate, 1, at(5_000)).is_err());
        // At once, all comes back, and with others' debts beside it.
        let mut bucket = Bucket::default();
        bucket.take(&rate, 2, at(0)).unwrap();
        bucket.take(&rate, 6, at(0)).unwrap();
        let mark = bucket.mark();
        bucket.give_back_since(mark, &rate, 5, at(200));
        assert!(bucket.take(&rate, 10, at(200)).is_err());
        bucket.take(&rate, 9, at(200)).unwrap();
    }

    #[test]
    fn a_debt_beyond_the_bucket_is_waited_for() {
        let rate = Rate::new(10, Per::Second);
        let mut bucket = Bucket::default();
        bucket.spend(&rate, 30, Time::ZERO);
        let wait = Duration::from_millis(2_100);
        assert_eq!(bucket.take(&rate, 1, Time::ZERO), Err(Some(wait)));
        // A clock that was read earlier does no harm.
        assert_eq!(bucket.take(&rate, 1, wait), Ok(()));
        assert!(bucket.take(&rate, 1, Time::ZERO).is_err());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let rate = Rate::new(u64::MAX, Per::Day);
        let mut bucket = Bucket::default();
        bucket.spend(&rate, u64::MAX, Time::ZERO);
        bucket.spend(&rate, u64::MAX, Time::ZERO);
        assert!(bucket.take(&rate, u64::MAX, Time::ZERO).is_err());
        assert!(bucket.is_full(&rate, Time::MAX));
    }
}
