//! The region with the least score.

use parking_lot::Mutex;

use llmserve_core::Time;

use super::config::{FederationConfig, Mode};
use super::favour::Favour;
use super::layer::FederationError;
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::outcome::{End, Outcome};
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;
use crate::strategy::{Strategy, turns::Turns};

/// Picks by region: those in favour before those out of it, among them those whose turn it is by the
/// [`Mode`], and of these the one with the least score.
///
/// A replica's region is its [`region`](ReplicaInfo::region); one without has no latency and
/// priority 0. Several replicas may share a region: what is said of a region's load and health is
/// then said of each replica. Equal scores take turns.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request, Routing};
/// # use llmserve_route::{Replica, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use llmserve_route::federation::{FederationConfig, RegionScore};
/// let config = FederationConfig::default().latency_ms("de", "eu", 9.0).latency_ms("de", "us", 95.0);
/// let router = Router::builder()
///     .replica(Replica::new("us-1", Closed).region("us"))
///     .replica(Replica::new("eu-1", Closed).region("eu"))
///     .strategy(RegionScore::new(config)?)
///     .max_attempts(1)
///     .build()?;
/// drop(router.generate(Request::text("Hi").routing(Routing::default().origin("de"))));
/// assert_eq!(router.stats().replicas[1].dispatched, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RegionScore {
    config: FederationConfig,
    turns: Turns,
    /// By slot index.
    members: Mutex<Vec<Option<Member>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Member {
    capacity: Option<usize>,
    favour: Favour,
}

/// What a score is made of.
#[derive(Clone, Copy)]
struct Parts {
    slot: Slot,
    latency: Option<f64>,
    outstanding: f64,
    capacity: Option<f64>,
    cost: Option<f64>,
    priority: u32,
}

impl RegionScore {
    /// By this configuration.
    ///
    /// # Errors
    /// [`FederationError::BadValue`].
    pub fn new(config: FederationConfig) -> Result<Self, FederationError> {
        config.check()?;
        Ok(Self {
            config,
            turns: Turns::default(),
            members: Mutex::default(),
        })
    }

    /// Puts the one in `slot` out of favour, as failures do: it comes back
    /// [`failback_after`](FederationConfig::failback_after) later.
    pub fn send_out(&self, slot: Slot, now: Time) {
        if let Some(Some(member)) = self.members.lock().get_mut(slot.index()) {
            member.favour.send_out(now, self.config.failback_after);
        }
    }

    /// Whether one more request leaves room for the loss of the largest.
    fn spares_the_largest(&self, members: &[Option<Member>], candidates: &Candidates<'_>) -> bool {
        let capacities = members
            .iter()
            .flatten()
            .filter_map(|member| member.capacity);
        let (all, largest) = capacities.fold((0, 0), |(all, largest): (usize, usize), capacity| {
            (all.saturating_add(capacity), largest.max(capacity))
        });
        let fleet = candidates.fleet();
        let outstanding = fleet
            .members()
            .map(|(slot, _)| candidates.outstanding(slot));
        outstanding.sum::<usize>() < all - largest
    }

    fn parts(&self, ask: &Ask<'_>, candidates: &Candidates<'_>, slot: Slot) -> Parts {
        let info = candidates.info(slot);
        let region = info.and_then(|info| info.region.as_deref());
        let origin = ask.request.routing.origin.as_deref();
        let priority = region.and_then(|region| self.config.priority.get(region));
        Parts {
            slot,
            latency: origin
                .zip(region)
                .and_then(|(origin, region)| self.config.latency(origin, region)),
            outstanding: candidates.outstanding(slot) as f64,
            capacity: info.and_then(|info| info.capacity).map(|most| most as f64),
            cost: info.and_then(|info| info.cost),
            priority: priority.copied().unwrap_or(0),
        }
    }
}

/// A number as a part of the highest.
fn of(number: f64, highest: f64) -> f64 {
    if highest > 0.0 { number / highest } else { 0.0 }
}

impl Strategy for RegionScore {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let members = self.members.lock();
        if self.config.mode == Mode::NPlusOne && !self.spares_the_largest(&members, candidates) {
            return None;
        }
        let out = |slot: Slot| {
            let member = members.get(slot.index()).copied().flatten();
            member.is_some_and(|member| member.favour.is_out(ask.now))
        };
        let nobody_else = candidates.iter().all(out);
        let mut those: Vec<Parts> = candidates
            .iter()
            .filter(|slot| nobody_else || !out(*slot))
            .map(|slot| self.parts(ask, candidates, slot))
            .collect();
        if self.config.mode == Mode::ActivePassive {
            let first = those.iter().map(|parts| parts.priority).min()?;
            those.retain(|parts| parts.priority == first);
        }
        let highest =
            |part: fn(&Parts) -> Option<f64>| those.iter().filter_map(part).fold(0.0, f64::max);
        let latencies = those.iter().filter_map(|parts| parts.latency);
        let (sum, known) = latencies.fold((0.0, 0.0), |(sum, known), of| (sum + of, known + 1.0));
        let mean = if known > 0.0 { sum / known } else { 0.0 };
        let latency = highest(|parts| parts.latency);
        let cost = highest(|parts| parts.cost);
        let priority = highest(|parts| Some(f64::from(parts.priority)));
        let most = highest(|parts| Some(parts.outstanding + 1.0));
        let weights = self.config.weights;
        let score = |parts: &Parts| {
            let load = parts.outstanding / parts.capacity.unwrap_or(most);
            weights.latency * of(parts.latency.unwrap_or(mean), latency)
                + weights.load * load
                + weights.cost * parts.cost.map_or(1.0, |own| of(own, cost))
                + weights.priority * of(f64::from(parts.priority), priority)
        };
        let set: ReplicaSet = those.iter().map(|parts| parts.slot.index()).collect();
        self.turns.least(&candidates.within(&set), |index, _| {
            let parts = those.iter().find(|parts| parts.slot.index() == index);
            parts.map_or(f64::INFINITY, score)
        })
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let mut members = self.members.lock();
        if slot.index() >= members.len() {
            members.resize(slot.index() + 1, None);
        }
        members[slot.index()] = Some(Member {
            capacity: info.capacity,
            favour: Favour::default(),
        });
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
        if let Some(member) = self.members.lock().get_mut(slot.index()) {
            *member = None;
        }
    }

    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        let mut members = self.members.lock();
        let Some(Some(Member { favour, .. })) = members.get_mut(slot.index()) else {
            return;
        };
        let FederationConfig {
            failover_after,
            failback_after,
            ..
        } = self.config;
        match outcome.end {
            End::Finished => favour.succeeded(),
            End::Failed(_) => favour.failed(outcome.now, failover_after, failback_after),
            End::Refused(_) | End::Abandoned => {}
        }
    }
}
