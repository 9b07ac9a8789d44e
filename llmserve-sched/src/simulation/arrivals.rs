//! When requests come.

use std::time::Duration;

use super::random::Random;

/// When the requests of one [`Traffic`](super::Traffic) come.
///
/// ```
/// use llmserve_sched::simulation::Arrivals;
/// let arrivals = Arrivals::Bursts { per_second: 20.0, size: 50 };
/// assert_eq!(arrivals.rate(), Some(20.0)); // a burst of 50 every two and a half seconds
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Arrivals {
    /// All together, at the beginning.
    AtOnce,
    /// One after the other, at equal distances; the first at the beginning.
    Even {
        /// Requests a second; above 0.
        per_second: f64,
    },
    /// A Poisson process: whatever came before says nothing of what comes.
    Poisson {
        /// Requests a second in the mean; above 0.
        per_second: f64,
    },
    /// Bursts, which come as a Poisson process; all requests of one come at the same moment.
    Bursts {
        /// Requests a second in the mean, counted over all bursts; above 0.
        per_second: f64,
        /// Requests in a burst; at least 1.
        size: u64,
    },
}

impl Arrivals {
    /// Requests a second in the long run; none if they come at once.
    pub fn rate(&self) -> Option<f64> {
        match *self {
            Self::AtOnce => None,
            Self::Even { per_second }
            | Self::Poisson { per_second }
            | Self::Bursts { per_second, .. } => Some(per_second),
        }
    }

    /// What is wrong with the numbers.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let rate = self.rate().unwrap_or(1.0);
        // 10⁻⁹ a second is one in thirty years: slower, and times would not fit.
        if !(1e-9..=1e9).contains(&rate) {
            return Some("arrivals: the rate is not within 1e-9 and 1e9 a second");
        }
        matches!(self, Self::Bursts { size: 0, .. }).then_some("arrivals: a burst has no requests")
    }
}

/// The moments, one by one.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    arrivals: Arrivals,
    /// How many were told.
    told: u64,
    /// The last one, in seconds since the beginning.
    last: f64,
}

impl Moments {
    pub(super) fn new(arrivals: Arrivals) -> Self {
        Self {
            arrivals,
            told: 0,
            last: 0.0,
        }
    }

    /// The next moment, never before the last.
    pub(super) fn next(&mut self, random: &mut Random) -> Duration {
        let number = self.told;
        self.told += 1;
        match self.arrivals {
            Arrivals::AtOnce => {}
            // From its number, so that no error adds up.
            Arrivals::Even { per_second } => self.last = number as f64 / per_second,
            Arrivals::Poisson { per_second } => self.last += random.exponential(1.0 / per_second),
            Arrivals::Bursts { per_second, size } => {
                if number.is_multiple_of(size) {
                    self.last += random.exponential(size as f64 / per_second);
                }
            }
        }
        Duration::try_from_secs_f64(self.last).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(arrivals: Arrivals, n: usize) -> Vec<f64> {
        let mut random = Random::stream(1, 0);
        let mut moments = Moments::new(arrivals);
        let told = (0..n).map(|_| moments.next(&mut random).as_secs_f64());
        told.collect()
    }

    #[test]
    fn rates_are_kept_and_gaps_are_as_told() {
        let even = moments(Arrivals::Even { per_second: 4.0 }, 5);
        assert_eq!(even, [0.0, 0.25, 0.5, 0.75, 1.0]);
        let poisson = moments(Arrivals::Poisson { per_second: 50.0 }, 50_000);
        assert!(
            (poisson[49_999] - 1000.0).abs() < 20.0,
            "{}",
            poisson[49_999]
        );
        let gaps: Vec<f64> = poisson.windows(2).map(|w| w[1] - w[0]).collect();
        let squares = gaps.iter().map(|gap| (gap - 0.02).powi(2)).sum::<f64>();
        let deviation = (squares / gaps.len() as f64).sqrt();
        assert!((deviation - 0.02).abs() < 0.001, "{deviation}");
        let bursts = moments(
            Arrivals::Bursts {
                per_second: 50.0,
                size: 10,
            },
            50_000,
        );
        assert!((bursts[49_999] - 1000.0).abs() < 60.0, "{}", bursts[49_999]);
        assert!(
            bursts
                .chunks(10)
                .all(|burst| burst.iter().all(|at| *at == burst[0]))
        );
        assert_eq!(moments(Arrivals::AtOnce, 3), [0.0; 3]);
    }

    #[test]
    fn rates_that_mean_nothing_are_faults() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-12] {
            assert!(
                Arrivals::Poisson { per_second: rate }.fault().is_some(),
                "{rate}"
            );
        }
        let none = Arrivals::Bursts {
            per_second: 1.0,
            size: 0,
        };
        assert!(none.fault().is_some());
        assert_eq!(Arrivals::AtOnce.fault(), None);
    }
}
