//! What is measured.

use std::time::Duration;

use llmserve_core::Time;

use crate::router::Router;

/// The state of a service at one moment. What is not known is none, and has no say.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::scale::Signals;
/// let signals = Signals::new(Duration::from_secs(60), 4)
///     .utilization(0.9)
///     .queue(12.0)
///     .p95(Duration::from_millis(800));
/// assert_eq!((signals.replicas, signals.queue), (4, Some(12.0)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Signals {
    /// When.
    pub at: Time,
    /// Replicas that answer.
    pub replicas: usize,
    /// The part of what they can do that they do, on average: 1 is all of it.
    pub utilization: Option<f64>,
    /// Requests that wait, in all.
    pub queue: Option<f64>,
    /// The time to the first token that 95 of 100 requests keep.
    pub p95: Option<Duration>,
    /// Requests that come in a second.
    pub demand: Option<f64>,
}

impl Signals {
    /// `replicas` at `at`, with nothing else known.
    pub fn new(at: Time, replicas: usize) -> Self {
        Self {
            at,
            replicas,
            utilization: None,
            queue: None,
            p95: None,
            demand: None,
        }
    }

    /// What a router tells: replicas that do not drain and, where all of them have a
    /// [capacity](crate::ReplicaInfo::capacity), the part of it that is in use.
    /// What has come to pass of late is measured by a [`Meter`](super::Meter).
    pub fn of(router: &Router, at: Time) -> Self {
        let room = Room::of(router);
        let stats = router.stats().replicas;
        let outstanding = stats.iter().filter(|replica| !replica.draining);
        let outstanding: usize = outstanding.map(|replica| replica.outstanding).sum();
        Self {
            utilization: room.part(outstanding as f64),
            ..Self::new(at, room.replicas)
        }
    }
}

/// What the replicas of a router that do not drain can do.
pub(super) struct Room {
    pub(super) replicas: usize,
    /// Requests at once; none where any number, or no replica, is there.
    capacity: Option<usize>,
}

impl Room {
    pub(super) fn of(router: &Router) -> Self {
        let fleet = router.fleet();
        let (mut replicas, mut capacity) = (0, Some(0usize));
        for (slot, replica) in fleet.members() {
            if !fleet.is_draining(slot) {
                replicas += 1;
                let both = capacity.zip(replica.info().capacity);
                capacity = both.map(|(sum, own)| sum.saturating_add(own));
            }
        }
        Self {
            replicas,
            capacity: capacity.filter(|capacity| *capacity > 0),
        }
    }

    /// The part of it that so many requests take.
    pub(super) fn part(&self, requests: f64) -> Option<f64> {
        self.capacity.map(|capacity| requests / capacity as f64)
    }
}

/// Setters: each replaces the field of its name.
impl Signals {
    /// See [`Signals::utilization`].
    pub fn utilization(mut self, utilization: f64) -> Self {
        self.utilization = Some(utilization);
        self
    }

    /// See [`Signals::queue`].
    pub fn queue(mut self, requests: f64) -> Self {
        self.queue = Some(requests);
        self
    }

    /// See [`Signals::p95`].
    pub fn p95(mut self, time: Duration) -> Self {
        self.p95 = Some(time);
        self
    }

    /// See [`Signals::demand`].
    pub fn demand(mut self, per_second: f64) -> Self {
        self.demand = Some(per_second);
        self
    }
}
