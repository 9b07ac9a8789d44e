//! What a service has done of late.

use std::time::Duration;

use llmserve_core::Time;

use super::histogram::Histogram;

/// Parts a window is cut into: what is old is forgotten a part at a time.
const PARTS: u32 = 12;

/// Counts of a window, and how many requests there were, on average over time.
pub(super) struct Window {
    part: Duration,
    parts: Vec<Part>,
    /// The number of the newest part since the clock's beginning.
    newest: u128,
    /// When it began, and when it was last brought up to date.
    since: Time,
    last: Time,
    waiting: u64,
    in_flight: u64,
}

#[derive(Default)]
struct Part {
    arrived: u64,
    turned_away: u64,
    /// Requests times seconds.
    waited: f64,
    flown: f64,
    first_token: Histogram,
}

/// What a window tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Told {
    /// Requests a second; none before any time has passed.
    pub(super) demand: Option<f64>,
    /// Requests without a first event, on average.
    pub(super) waiting: f64,
    /// Requests in all, on average.
    pub(super) in_flight: f64,
    /// Requests that nobody took.
    pub(super) turned_away: u64,
    pub(super) p95: Option<Duration>,
}

impl Window {
    /// One as long as `span`, or longer by less than its own granularity of nanoseconds.
    pub(super) fn new(span: Duration, now: Time) -> Self {
        let part = (span / PARTS).max(Duration::from_nanos(1));
        let mut parts = Vec::new();
        parts.resize_with(PARTS as usize, Part::default);
        Self {
            newest: now.as_nanos() / part.as_nanos(),
            part,
            parts,
            since: now,
            last: now,
            waiting: 0,
            in_flight: 0,
        }
    }

    /// A request came, and waits.
    pub(super) fn arrived(&mut self, now: Time) {
        self.go_to(now).arrived += 1;
        self.waiting += 1;
        self.in_flight += 1;
    }

    /// The first event of one that waited came, after so long.
    pub(super) fn answered(&mut self, now: Time, after: Duration) {
        self.go_to(now).first_token.add(after);
        self.waiting -= 1;
    }

    /// One is gone, that still waited or did not.
    pub(super) fn ended(&mut self, now: Time, waiting: bool, turned_away: bool) {
        self.go_to(now).turned_away += u64::from(turned_away);
        self.waiting -= u64::from(waiting);
        self.in_flight -= 1;
    }

    pub(super) fn told(&mut self, now: Time) -> Told {
        self.go_to(now);
        let oldest = self.newest.saturating_sub(u128::from(PARTS) - 1);
        let from = self.since.max(self.begin(oldest));
        let seconds = self.last.saturating_sub(from).as_secs_f64();
        let mut sum = Part::default();
        for part in &self.parts {
            sum.arrived += part.arrived;
            sum.turned_away += part.turned_away;
            sum.waited += part.waited;
            sum.flown += part.flown;
            sum.first_token.merge(&part.first_token);
        }
        let mean = |sum: f64, now: u64| match seconds > 0.0 {
            true => sum / seconds,
            false => now as f64,
        };
        Told {
            demand: (seconds > 0.0).then(|| sum.arrived as f64 / seconds),
            waiting: mean(sum.waited, self.waiting),
            in_flight: mean(sum.flown, self.in_flight),
            turned_away: sum.turned_away,
            p95: sum.first_token.quantile(0.95),
        }
    }

    fn begin(&self, part: u128) -> Time {
        let nanos = u64::try_from(part * self.part.as_nanos());
        nanos.map_or(Time::MAX, Duration::from_nanos)
    }

    /// Brings all up to `now`; gives the newest part. A clock read earlier than another's changes
    /// nothing.
    fn go_to(&mut self, now: Time) -> &mut Part {
        let newest = now.as_nanos() / self.part.as_nanos();
        if newest.saturating_sub(self.newest) > u128::from(PARTS) {
            // Nothing that is known is in the window any more, but who was there still is.
            self.newest = newest - u128::from(PARTS);
            self.last = self.begin(self.newest);
            self.parts.iter_mut().for_each(Part::clear);
        }
        while self.last < now {
            let end = self.begin(self.newest + 1);
            let until = end.min(now);
            let seconds = until.saturating_sub(self.last).as_secs_f64();
            let (waiting, in_flight) = (self.waiting as f64, self.in_flight as f64);
            let part = self.at(self.newest);
            part.waited += waiting * seconds;
            part.flown += in_flight * seconds;
            self.last = until;
            if until == end {
                self.newest += 1;
                self.at(self.newest).clear();
            }
        }
        self.at(self.newest)
    }

    fn at(&mut self, part: u128) -> &mut Part {
        &mut self.parts[(part % u128::from(PARTS)) as usize]
    }
}

impl Part {
    fn clear(&mut self) {
        self.first_token.clear();
        (self.arrived, self.turned_away) = (0, 0);
        (self.waited, self.flown) = (0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    fn near(told: f64, expected: f64) -> bool {
        (told - expected).abs() < 1e-9
    }

    #[test]
    fn means_are_over_time_and_not_over_looks() {
        let mut window = Window::new(at(60), at(7));
        let told = window.told(at(7));
        assert_eq!((told.demand, told.waiting, told.p95), (None, 0.0, None));
        // One waits for 10 s and answers for 20; looked at often or once.
        window.arrived(at(7));
        assert_eq!(window.told(at(7)).waiting, 1.0, "no time has passed");
        for second in 8..17 {
            assert!(near(window.told(at(second)).waiting, 1.0));
        }
        window.answered(at(17), at(10));
        window.ended(at(37), false, false);
        let told = window.told(at(47));
        assert!(near(told.waiting, 10.0 / 40.0), "{told:?}");
        assert!(near(told.in_flight, 30.0 / 40.0), "{told:?}");
        assert!(near(told.demand.unwrap(), 1.0 / 40.0), "{told:?}");
        assert!((at(10)..=at(11)).contains(&told.p95.unwrap()), "{told:?}");
    }

    #[test]
    fn what_is_older_than_a_window_is_forgotten_and_who_is_there_is_not() {
        let mut window = Window::new(at(60), at(0));
        for second in 0..120 {
            window.arrived(at(second));
            window.answered(at(second), at(1));
            window.ended(at(second), false, second < 30);
        }
        let told = window.told(at(120));
        // Eleven parts that are over and one that has just begun.
        assert!(near(told.demand.unwrap(), 1.0), "{told:?}");
        assert_eq!(told.turned_away, 0);
        window.arrived(at(120));
        window.arrived(at(120));
        window.answered(at(121), at(1));
        for far in [200, 100_000, 100_030] {
            let told = window.told(at(far));
            assert!(near(told.waiting, 1.0), "{far}: {told:?}");
            assert!(near(told.in_flight, 2.0), "{far}: {told:?}");
            assert_eq!((told.demand, told.p95), (Some(0.0), None), "{far}");
        }
        window.ended(at(100_030), true, false);
        window.ended(at(100_030), false, false);
        let told = window.told(Time::MAX);
        assert_eq!((told.waiting, told.in_flight), (0.0, 0.0));
        // Late news counts for now.
        window.arrived(at(3));
        assert_eq!(window.in_flight, 1);
    }
}
