//! What a model is worth keeping for.

use std::time::Duration;

use llmserve_core::Time;

/// A count that forgets: what was counted a half-life ago counts half.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::models) struct Decayed {
    value: f64,
    at: Time,
}

impl Decayed {
    pub(super) fn add_one(&mut self, now: Time, half_life: Duration) {
        self.value = self.value(now, half_life) + 1.0;
        self.at = now;
    }

    pub(super) fn value(&self, now: Time, half_life: Duration) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.value * (-age / half_life.as_secs_f64()).exp2()
    }
}

/// A load that took no time at all is still a load.
const LEAST_LOAD: Duration = Duration::from_millis(1);

/// GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with
/// Greedy-Dual-Size-Frequency Caching Policy", HP Labs 1998): worth = age + frequency × cost / size.
///
/// `age` is the worth of the last that was given up, so what is asked for now is worth more than
/// what was asked for as often before others went. Cost is the time of a load; frequency decays
/// here, as popularity of months ago says nothing.
pub(super) fn worth(age: f64, frequency: f64, load: Option<Duration>, bytes: u64) -> f64 {
    let cost = load.unwrap_or_default().max(LEAST_LOAD).as_secs_f64();
    age + frequency * cost / bytes.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_halve_with_every_half_life() {
        let half_life = Duration::from_secs(10);
        let mut count = Decayed::default();
        for _ in 0..8 {
            count.add_one(Duration::from_secs(5), half_life);
        }
        assert_eq!(count.value(Duration::from_secs(5), half_life), 8.0);
        assert_eq!(count.value(Duration::from_secs(15), half_life), 4.0);
        assert_eq!(count.value(Duration::from_secs(35), half_life), 1.0);
        count.add_one(Duration::from_secs(35), half_life);
        assert_eq!(count.value(Duration::from_secs(45), half_life), 1.0);
        // A clock that steps back is no reason to count more.
        assert_eq!(count.value(Duration::ZERO, half_life), 2.0);
    }

    #[test]
    fn often_slow_and_small_is_worth_more() {
        let base = worth(0.0, 2.0, Some(Duration::from_secs(2)), 100);
        assert!(worth(0.0, 3.0, Some(Duration::from_secs(2)), 100) > base);
        assert!(worth(0.0, 2.0, Some(Duration::from_secs(3)), 100) > base);
        assert!(worth(0.0, 2.0, Some(Duration::from_secs(2)), 99) > base);
        assert!(worth(1.0, 0.0, None, 100) > base);
        assert!(worth(0.0, 1.0, None, 0).is_finite());
    }
}
