//! How fast the queue is served, from the times that plans are asked at.

use std::time::Duration;

use llmserve_core::Time;

/// What is measured is halved after this long with somebody waiting, so that the present counts
/// more than the past.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// Nobody is told to wait longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Nor less: by then things are hardly different.
const SHORTEST: Duration = Duration::from_millis(1);

/// Newcomers admitted, and their tokens, over the time that somebody was left waiting: those that
/// find a free engine say nothing of how fast a queue is served.
#[derive(Debug, Default)]
pub(super) struct Service {
    last: Option<Time>,
    /// Whether the plan before left somebody waiting.
    left_waiting: bool,
    busy: Duration,
    requests: f64,
    tokens: f64,
    /// Requests and tokens told to come again and not made up for by admissions yet: they are in
    /// line before the next one that is refused.
    refused_requests: f64,
    refused_tokens: f64,
    /// When the last of them was told to come again. After that they have come, or will not.
    due: Time,
}

impl Service {
    /// A plan is asked for.
    pub(super) fn plan(&mut self, now: Time) {
        if now > self.due {
            self.refused_requests = 0.0;
            self.refused_tokens = 0.0;
        }
        let since = self.last.replace(now).map(|last| now.saturating_sub(last));
        if !self.left_waiting {
            return;
        }
        self.busy += since.unwrap_or_default();
        if self.busy > HALF_LIFE {
            self.busy /= 2;
            self.requests /= 2.0;
            self.tokens /= 2.0;
        }
    }

    /// A plan is made, and somebody still waits or not.
    pub(super) fn planned(&mut self, waiting: bool) {
        self.left_waiting = waiting;
    }

    /// The last that waited has left: from here on nothing is to be learnt from the time.
    pub(super) fn nobody_waits(&mut self) {
        self.left_waiting = false;
    }

    /// A newcomer of `tokens` was admitted.
    pub(super) fn admitted(&mut self, tokens: usize) {
        if self.left_waiting {
            self.requests += 1.0;
            self.tokens += tokens as f64;
        }
        self.refused_requests = (self.refused_requests - 1.0).max(0.0);
        self.refused_tokens = (self.refused_tokens - tokens as f64).max(0.0);
    }

    /// When there will be room for a request that is refused because one too many wait.
    pub(super) fn room_for_one(&mut self) -> Option<Duration> {
        self.refused_requests += 1.0;
        self.after(self.refused_requests, self.requests)
    }

    /// When there will be room for a request of `tokens` that is refused because `excess` tokens
    /// too many would wait.
    pub(super) fn room_for(&mut self, tokens: usize, excess: usize) -> Option<Duration> {
        let ahead = self.refused_tokens;
        self.refused_tokens += tokens as f64;
        self.after(ahead + excess as f64, self.tokens)
    }

    /// How long it takes to serve `amount`, when `served` were over the time measured; none where
    /// nothing was.
    fn after(&mut self, amount: f64, served: f64) -> Option<Duration> {
        if served <= 0.0 || self.busy.is_zero() {
            return None;
        }
        let seconds = amount * self.busy.as_secs_f64() / served;
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST);
        let wait = wait.clamp(SHORTEST, LONGEST);
        self.due = self
            .due
            .max(self.last.unwrap_or_default().saturating_add(wait));
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten requests of 100 tokens a second.
    fn measured() -> Service {
        let mut service = Service::default();
        for step in 0..=40 {
            service.plan(Duration::from_millis(100 * step));
            if step > 0 {
                service.admitted(100);
            }
            service.planned(true);
        }
        service
    }

    #[test]
    fn nothing_is_promised_before_anything_was_served() {
        let mut service = Service::default();
        assert_eq!(service.room_for_one(), None);
        service.plan(Duration::from_secs(1));
        service.planned(true);
        service.plan(Duration::from_secs(2));
        assert_eq!(service.room_for(10, 10), None);
    }

    #[test]
    fn the_wait_is_what_is_ahead_over_the_rate() {
        let millis = Duration::from_millis;
        let mut service = measured();
        assert_eq!(service.room_for_one(), Some(millis(100)));
        assert_eq!(service.room_for_one(), Some(millis(200)), "one is ahead");
        service.admitted(0);
        let next = service.room_for_one().expect("measured");
        assert!(next < millis(200) && next > millis(190), "{next:?}");

        let mut service = measured();
        assert_eq!(service.room_for(500, 250), Some(millis(250)));
        assert_eq!(service.room_for(500, 250), Some(millis(750)));
    }

    #[test]
    fn who_was_told_to_come_again_is_in_line_until_then() {
        let mut service = measured();
        (0..50).for_each(|_| _ = service.room_for_one());
        let ahead = service.room_for_one();
        assert_eq!(ahead, Some(Duration::from_millis(5100)));
        // They were told to come within 5.1 seconds of the last plan, at four seconds.
        service.nobody_waits();
        service.plan(Duration::from_secs(9));
        assert_eq!(service.room_for_one(), Some(Duration::from_millis(5200)));
        service.plan(Duration::from_secs(60));
        assert_eq!(service.room_for_one(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn time_after_the_last_that_waited_was_cancelled_does_not_count() {
        let mut service = measured();
        service.nobody_waits();
        service.plan(Duration::from_secs(1000));
        assert_eq!(service.room_for_one(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn idle_time_does_not_count_and_the_past_fades() {
        let mut service = measured();
        service.planned(false);
        service.plan(Duration::from_secs(1000));
        service.admitted(100);
        service.planned(true);
        assert_eq!(service.room_for_one(), Some(Duration::from_millis(100)));
        for second in 1001..1060 {
            service.plan(Duration::from_secs(second));
            service.admitted(100);
            service.planned(true);
        }
        let slower = Service {
            refused_requests: 0.0,
            ..service
        }
        .room_for_one()
        .expect("measured");
        assert!(slower > Duration::from_millis(800), "{slower:?}");
    }
}
