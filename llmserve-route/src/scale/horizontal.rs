//! More or fewer of the same.

use std::time::Duration;

use llmserve_core::Time;
use serde::{Deserialize, Serialize};

use super::error::{ScaleConfigError, positive, wrong};
use super::signals::Signals;

/// How many replicas there should be for what is measured: in proportion to targets, as the
/// Kubernetes horizontal pod autoscaler reckons it.
///
/// Each signal asks for `replicas × measured / target`, rounded up; the one that asks for most is
/// heard. Within [`tolerance`](Self::tolerance) of its target it asks for as many as there are. A
/// p95 asks for more, never for fewer: a service that is quick enough may still be full. What was
/// asked for in the window is remembered: there are fewer only where the whole
/// [`down_window`](Self::down_window) asks for fewer, and then as many as its most; and more where
/// the whole [`up_window`](Self::up_window) asks for more.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::scale::{Horizontal, LastScaled, Signals};
/// let now = Duration::from_secs(600);
/// let busy = Signals::new(now, 4).utilization(1.05);
/// let decision = Horizontal::default().decide(now, 4, &[busy], LastScaled::default());
/// assert_eq!(decision.replicas, 6); // 4 x 1.05 / 0.7
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Horizontal {
    /// The least replicas. 0 scales to none where nothing is asked. Default: 1.
    pub min: usize,
    /// The most replicas; at least 1 and at least `min`. Default: 10.
    pub max: usize,
    /// The [utilisation](Signals::utilization) to keep. None: it has no say. Default: 0.7.
    pub utilization: Option<f64>,
    /// The requests that may [wait](Signals::queue) for each replica. Default: 4.
    pub queue: Option<f64>,
    /// The [p95](Signals::p95) to keep. Default: none.
    pub p95: Option<Duration>,
    /// The part by which a signal may be off its target; from 0, below 1. Default: 0.1.
    pub tolerance: f64,
    /// How long more must have been asked for. Default: 0.
    pub up_window: Duration,
    /// How long fewer must have been asked for. Default: 300 s.
    pub down_window: Duration,
    /// The least time from any change to one to more. Default: 15 s.
    pub up_cooldown: Duration,
    /// The least time from any change to one to fewer. Default: 60 s.
    pub down_cooldown: Duration,
    /// The most replicas added at once; at least 1. None: as many as there are, or 4 where those
    /// are fewer. Default: none.
    pub up_step: Option<usize>,
    /// The most replicas taken away at once; at least 1. Default: 1.
    pub down_step: usize,
}

impl Default for Horizontal {
    fn default() -> Self {
        Self {
            min: 1,
            max: 10,
            utilization: Some(0.7),
            queue: Some(4.0),
            p95: None,
            tolerance: 0.1,
            up_window: Duration::ZERO,
            down_window: Duration::from_secs(300),
            up_cooldown: Duration::from_secs(15),
            down_cooldown: Duration::from_secs(60),
            up_step: None,
            down_step: 1,
        }
    }
}

/// Setters: each replaces the field of its name.
impl Horizontal {
    /// See [`Horizontal::min`] and [`Horizontal::max`].
    pub fn between(mut self, min: usize, max: usize) -> Self {
        (self.min, self.max) = (min, max);
        self
    }

    /// See [`Horizontal::utilization`].
    pub fn utilization(mut self, target: impl Into<Option<f64>>) -> Self {
        self.utilization = target.into();
        self
    }

    /// See [`Horizontal::queue`].
    pub fn queue(mut self, per_replica: impl Into<Option<f64>>) -> Self {
        self.queue = per_replica.into();
        self
    }

    /// See [`Horizontal::p95`].
    pub fn p95(mut self, target: impl Into<Option<Duration>>) -> Self {
        self.p95 = target.into();
        self
    }

    /// See [`Horizontal::tolerance`].
    pub fn tolerance(mut self, part: f64) -> Self {
        self.tolerance = part;
        self
    }

    /// See [`Horizontal::up_window`] and [`Horizontal::down_window`].
    pub fn windows(mut self, up: Duration, down: Duration) -> Self {
        (self.up_window, self.down_window) = (up, down);
        self
    }

    /// See [`Horizontal::up_cooldown`] and [`Horizontal::down_cooldown`].
    pub fn cooldowns(mut self, up: Duration, down: Duration) -> Self {
        (self.up_cooldown, self.down_cooldown) = (up, down);
        self
    }

    /// See [`Horizontal::up_step`] and [`Horizontal::down_step`].
    pub fn steps(mut self, up: impl Into<Option<usize>>, down: usize) -> Self {
        (self.up_step, self.down_step) = (up.into(), down);
        self
    }
}

/// When the number of replicas was last changed; none where it never was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastScaled(pub Option<Time>);

/// How many replicas there should be now, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// How many.
    pub replicas: usize,
    /// How many were asked for, before windows, pauses, steps and limits.
    pub wanted: usize,
    /// What decided.
    pub reason: Reason,
}

/// What decided a number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing is measured.
    NoSignal,
    /// Every signal is near its target.
    OnTarget,
    /// The utilisation.
    Utilization,
    /// The queue.
    Queue,
    /// The time to the first token.
    Latency,
    /// What is expected to come.
    Forecast,
    /// More or fewer are asked for, but not yet for long enough.
    Stabilizing,
    /// The last change was too short a time ago.
    Cooldown,
    /// `min` or `max`.
    Limit,
}

impl Reason {
    /// A short, stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NoSignal => "no_signal",
            Reason::OnTarget => "on_target",
            Reason::Utilization => "utilization",
            Reason::Queue => "queue",
            Reason::Latency => "latency",
            Reason::Forecast => "forecast",
            Reason::Stabilizing => "stabilizing",
            Reason::Cooldown => "cooldown",
            Reason::Limit => "limit",
        }
    }
}

impl Horizontal {
    /// Checks the fields.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), ScaleConfigError> {
        if self.max == 0 || self.max < self.min {
            return wrong("max", self.max, "it must be at least 1 and at least min");
        }
        for (field, target) in [("utilization", self.utilization), ("queue", self.queue)] {
            if let Some(target) = target {
                positive(field, target)?;
            }
        }
        if self.p95.is_some_and(|target| target.is_zero()) {
            return wrong("p95", 0, "nobody is that quick");
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            return wrong("tolerance", self.tolerance, "it is from 0 and below 1");
        }
        if self.up_step == Some(0) || self.down_step == 0 {
            return wrong("up_step or down_step", 0, "1 is the least");
        }
        Ok(())
    }

    /// The time back to which signals matter.
    pub fn window(&self) -> Duration {
        self.up_window.max(self.down_window)
    }

    /// How many replicas there should be at `now`, where there are `current`: from the signals of
    /// the [window](Self::window), in any order, and the time of the last change. Signals that are
    /// older, or later than `now`, have no say.
    pub fn decide(
        &self,
        now: Time,
        current: usize,
        signals: &[Signals],
        last: LastScaled,
    ) -> Decision {
        let seen = |signals: &&Signals| signals.at <= now && now - signals.at <= self.window();
        let asked = signals.iter().filter(seen);
        let asked = asked.filter_map(|signals| Some((signals.at, self.asked(signals)?)));
        let asked: Vec<(Time, (usize, Reason))> = asked.collect();
        let Some((_, (wanted, reason))) = asked.iter().max_by_key(|(at, _)| *at).copied() else {
            return self.settle(now, current, current, Reason::NoSignal, last);
        };
        let within = |window: Duration| {
            let asked = asked.iter().filter(move |(at, _)| now - *at <= window);
            asked.map(|(_, (replicas, _))| *replicas).chain([wanted])
        };
        let most = within(self.down_window).max().unwrap_or(wanted);
        let least = within(self.up_window).min().unwrap_or(wanted);
        let (stable, reason) = match () {
            () if least > current => (least, reason),
            () if most < current => (most, reason),
            () if wanted != current => (current, Reason::Stabilizing),
            () => (current, reason),
        };
        Decision {
            wanted,
            ..self.settle(now, current, stable, reason, last)
        }
    }

    /// `wanted` within pauses, steps and limits.
    pub(super) fn settle(
        &self,
        now: Time,
        current: usize,
        wanted: usize,
        reason: Reason,
        last: LastScaled,
    ) -> Decision {
        let limited = wanted.max(self.min).min(self.max);
        let decided = |replicas, reason| Decision {
            replicas,
            wanted,
            reason,
        };
        let reason = if limited == wanted {
            reason
        } else {
            Reason::Limit
        };
        // Whoever is outside the limits comes inside at once.
        if current < self.min || current > self.max {
            return decided(limited, reason);
        }
        let (step, pause) = if limited > current {
            (self.up_step.unwrap_or(current.max(4)), self.up_cooldown)
        } else {
            (self.down_step, self.down_cooldown)
        };
        if limited == current {
            return decided(current, reason);
        }
        if last.0.is_some_and(|last| now.saturating_sub(last) < pause) {
            return decided(current, Reason::Cooldown);
        }
        let least = current.saturating_sub(step);
        let most = current.saturating_add(step);
        decided(limited.max(least).min(most), reason)
    }

    /// How many replicas one sample asks for; none where it has no say.
    fn asked(&self, signals: &Signals) -> Option<(usize, Reason)> {
        let there = signals.replicas as f64;
        let of = |measured: Option<f64>, target: Option<f64>| {
            let ratio = measured? / target?;
            (ratio.is_finite() && ratio >= 0.0).then_some(ratio)
        };
        let asks = |ratio: f64| {
            if (ratio - 1.0).abs() <= self.tolerance {
                return (signals.replicas, Reason::OnTarget);
            }
            // A replica for a billionth of a request is a rounding error.
            let replicas = (there * ratio - 1e-9).ceil().clamp(0.0, 1e9) as usize;
            (replicas, Reason::Utilization)
        };
        // None run: nobody's utilisation says how many would.
        let utilization = of(signals.utilization, self.utilization);
        let utilization = utilization.filter(|_| signals.replicas > 0).map(asks);
        let queue = of(signals.queue, self.queue).map(|wanted| {
            let (replicas, reason) = match signals.replicas {
                0 => (
                    (wanted - 1e-9).ceil().clamp(0.0, 1e9) as usize,
                    Reason::Queue,
                ),
                _ => asks(wanted / there),
            };
            match reason {
                Reason::OnTarget => (replicas, reason),
                _ => (replicas, Reason::Queue),
            }
        });
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let latency = of(seconds(signals.p95), seconds(self.p95)).map(|ratio| {
            let (replicas, reason) = asks(ratio.max(1.0));
            match reason {
                Reason::OnTarget => (replicas, reason),
                _ => (replicas, Reason::Latency),
            }
        });
        // A p95 that is kept must not hold up those who ask for fewer.
        let (others, latency) = ([utilization, queue], latency);
        let most = others
            .into_iter()
            .flatten()
            .max_by_key(|(replicas, _)| *replicas);
        match (most, latency) {
            (Some(most), Some(latency)) if latency.0 > signals.replicas => {
                Some(if latency.0 > most.0 { latency } else { most })
            }
            (Some(most), _) => Some(most),
            (None, latency) => latency,
        }
    }
}
