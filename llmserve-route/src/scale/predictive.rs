//! What is expected to come.

use std::time::Duration;

use llmserve_core::Time;
use serde::{Deserialize, Serialize};

use super::error::{ScaleConfigError, positive, wrong};

/// Seconds of an hour and of a week.
const HOUR: f64 = 3_600.0;
const WEEK: f64 = 168.0 * HOUR;

/// Hours that are looked back: two years.
const LONGEST: usize = 104 * 168;

/// How much was asked for at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// When, from any beginning: what counts is the time between two of them. A host whose
    /// measurements outlive its process takes the time since 1970.
    pub at: Time,
    /// Requests a second.
    pub per_second: f64,
}

/// How many replicas what is expected will need: by the hour of the week, with a trend.
///
/// Demand is a level that grows or falls in a straight line, times a factor for each of the 168
/// hours of a week (a multiplicative seasonal decomposition): the line goes through the means of
/// the whole weeks there are, by least squares, and an hour's factor is the mean of what it had of
/// the line. While there are too few weeks, the mean of the last hour is expected to go on.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::scale::{Basis, Demand, Predictive};
/// let predictive = Predictive::new(2.0)?; // a replica answers two requests a second
/// let hour = |hour: u64| Duration::from_secs(hour * 3_600);
/// // Three weeks of four requests a second, and forty between nine and ten.
/// let of = |at: u64| if at % 24 == 9 { 40.0 } else { 4.0 };
/// let history: Vec<_> =
///     (0..504).map(|at| Demand { at: hour(at), per_second: of(at) }).collect();
/// let forecast = predictive.forecast(&history, hour(504 + 9)).unwrap();
/// assert_eq!(forecast.basis, Basis::Weeks(3));
/// // Five minutes before, there are enough for it: 40 x 1.2 / 2.
/// let before = hour(504 + 9) - Duration::from_secs(300);
/// assert_eq!(predictive.replicas(&history, before), Some(24));
/// # Ok::<(), llmserve_route::scale::ScaleConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Predictive {
    /// Requests a second that one replica answers.
    pub per_replica: f64,
    /// How long a new replica takes until it answers: so far ahead is looked. Default: 600 s.
    #[serde(default = "lead")]
    pub lead: Duration,
    /// What is expected is taken times this; at least 1. Default: 1.2.
    #[serde(default = "headroom")]
    pub headroom: f64,
    /// Whole weeks that a forecast needs; at least 1. Default: 2.
    #[serde(default = "min_weeks")]
    pub min_weeks: usize,
    /// The part of a week's hours that must have been measured for it to count; over 0, at most 1.
    /// Default: 0.8.
    #[serde(default = "coverage")]
    pub coverage: f64,
}

fn lead() -> Duration {
    Duration::from_secs(600)
}

fn headroom() -> f64 {
    1.2
}

fn min_weeks() -> usize {
    2
}

fn coverage() -> f64 {
    0.8
}

/// What a forecast comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Basis {
    /// So many whole weeks.
    Weeks(usize),
    /// The last hour that was measured: the history is too short.
    LastHour,
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Forecast {
    /// Requests a second.
    pub per_second: f64,
    /// What it comes from.
    pub basis: Basis,
}

impl Predictive {
    /// With the defaults, for replicas that answer so many requests a second.
    ///
    /// # Errors
    /// A rate that is not above 0 and finite.
    pub fn new(per_replica: f64) -> Result<Self, ScaleConfigError> {
        let new = Self {
            per_replica,
            lead: lead(),
            headroom: headroom(),
            min_weeks: min_weeks(),
            coverage: coverage(),
        };
        new.check()?;
        Ok(new)
    }

    /// See [`Predictive::lead`].
    pub fn lead(mut self, lead: Duration) -> Self {
        self.lead = lead;
        self
    }

    /// See [`Predictive::headroom`].
    pub fn headroom(mut self, times: f64) -> Self {
        self.headroom = times;
        self
    }

    /// See [`Predictive::min_weeks`].
    pub fn min_weeks(mut self, weeks: usize) -> Self {
        self.min_weeks = weeks;
        self
    }

    /// Checks the fields.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), ScaleConfigError> {
        positive("per_replica", self.per_replica)?;
        if !(self.headroom >= 1.0 && self.headroom.is_finite()) {
            return wrong("headroom", self.headroom, "it is finite and at least 1");
        }
        if self.min_weeks == 0 {
            return wrong("min_weeks", 0, "1 is the least");
        }
        if !(self.coverage > 0.0 && self.coverage <= 1.0) {
            return wrong("coverage", self.coverage, "it is over 0 and at most 1");
        }
        Ok(())
    }

    /// The demand expected at `at`, from a history in any order. None: there is none. What is
    /// negative or no number has not been measured.
    pub fn forecast(&self, history: &[Demand], at: Time) -> Option<Forecast> {
        let measured = |demand: &&Demand| (0.0..f64::INFINITY).contains(&demand.per_second);
        let last = history
            .iter()
            .filter(measured)
            .map(|demand| demand.at)
            .max()?;
        let history = history.iter().filter(measured);
        if let Some((season, weeks)) = Season::of(history.clone(), last, self) {
            return Some(Forecast {
                per_second: season.at(at),
                basis: Basis::Weeks(weeks),
            });
        }
        let recent = history.filter(|demand| (last - demand.at).as_secs_f64() < HOUR);
        let (sum, of) = recent.fold((0.0, 0.0), |(sum, of), demand| {
            (sum + demand.per_second, of + 1.0)
        });
        Some(Forecast {
            per_second: sum / of,
            basis: Basis::LastHour,
        })
    }

    /// The replicas needed from `now` until a replica that is begun now answers: for the most that
    /// is expected in between. None: the history is too short, and what is measured must do.
    pub fn replicas(&self, history: &[Demand], now: Time) -> Option<usize> {
        // Each hour on the way has a factor of its own.
        let end = now.saturating_add(self.lead);
        let first = now.as_secs() / 3_600;
        let hours = (self.lead.as_secs() / 3_600 + 1).min(168);
        let starts =
            (1..=hours).map(|hour| Duration::from_secs((first + hour).saturating_mul(3_600)));
        let most = [now, end].into_iter().chain(starts.filter(|at| *at < end));
        let most = most.filter_map(|at| match self.forecast(history, at)? {
            Forecast {
                per_second,
                basis: Basis::Weeks(_),
            } => Some(per_second),
            _ => None,
        });
        let needed = most.reduce(f64::max)? * self.headroom / self.per_replica;
        Some((needed - 1e-9).ceil().clamp(0.0, 1e9) as usize)
    }
}

/// A level with a trend, and a factor for each hour of the week.
struct Season {
    /// The level at `origin`, and what it gains in a week.
    level: f64,
    trend: f64,
    /// Seconds: the middle of the weeks.
    origin: f64,
    factors: Vec<f64>,
}

/// Which of a week's hours a time is in.
fn hour_of_week(seconds: f64) -> usize {
    (seconds.rem_euclid(WEEK) / HOUR) as usize % 168
}

impl Season {
    /// From whole weeks that end with the hour of `last`; none where there are too few.
    fn of<'a>(
        history: impl Iterator<Item = &'a Demand>,
        last: Time,
        config: &Predictive,
    ) -> Option<(Self, usize)> {
        let end = (last.as_secs_f64() / HOUR).floor() * HOUR + HOUR;
        // Hours by how long ago they were, each with its sum and count.
        let mut hours: Vec<(f64, f64)> = Vec::new();
        for demand in history {
            let ago = ((end - demand.at.as_secs_f64()) / HOUR).ceil() as usize - 1;
            if ago >= LONGEST {
                continue;
            }
            if ago >= hours.len() {
                hours.resize(ago + 1, (0.0, 0.0));
            }
            hours[ago].0 += demand.per_second;
            hours[ago].1 += 1.0;
        }
        let mean = |(sum, of): &(f64, f64)| (*of > 0.0).then(|| sum / of);
        let enough = config.coverage * 168.0;
        // The middle of each week that counts, and its mean.
        let mut weeks: Vec<(f64, f64)> = Vec::new();
        for (ago, week) in hours.chunks(168).enumerate() {
            let known: Vec<f64> = week.iter().filter_map(mean).collect();
            if known.len() as f64 >= enough {
                let middle = end - (ago as f64 + 0.5) * WEEK;
                weeks.push((middle, known.iter().sum::<f64>() / known.len() as f64));
            }
        }
        if weeks.len() < config.min_weeks {
            return None;
        }
        let of = weeks.len() as f64;
        let origin = weeks.iter().map(|(middle, _)| middle).sum::<f64>() / of;
        let level = weeks.iter().map(|(_, mean)| mean).sum::<f64>() / of;
        let x = |at: f64| (at - origin) / WEEK;
        let square: f64 = weeks.iter().map(|(at, _)| x(*at).powi(2)).sum();
        let product: f64 = weeks.iter().map(|(at, mean)| x(*at) * (mean - level)).sum();
        let mut season = Self {
            level,
            trend: if square > 0.0 { product / square } else { 0.0 },
            origin,
            factors: Vec::new(),
        };
        let mut factors = vec![(0.0, 0.0); 168];
        for (ago, hour) in hours.iter().enumerate() {
            let middle = end - (ago as f64 + 0.5) * HOUR;
            let level = season.level_at(middle);
            if let Some(mean) = mean(hour)
                && level > 0.0
            {
                let factor = &mut factors[hour_of_week(middle)];
                factor.0 += mean / level;
                factor.1 += 1.0;
            }
        }
        // An hour that was never measured is like the others.
        season.factors = factors
            .iter()
            .map(|factor| mean(factor).unwrap_or(1.0))
            .collect();
        Some((season, weeks.len()))
    }

    /// The level at a time, in seconds.
    fn level_at(&self, at: f64) -> f64 {
        (self.level + self.trend * (at - self.origin) / WEEK).max(0.0)
    }

    /// The demand at a time.
    fn at(&self, at: Time) -> f64 {
        let at = at.as_secs_f64();
        self.level_at(at) * self.factors[hour_of_week(at)]
    }
}
