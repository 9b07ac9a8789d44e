//! What is counted while a simulation runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::fairness::Fairness;
use super::histogram::Histogram;
use super::report::{
    Distribution, Outcomes, Preemptions, Report, Sample, TenantReport, Throughput, Tokens,
    Utilisation, seconds,
};
use super::timeline::{Slot, Timeline};

/// How a request came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Finished,
    TooLong,
    Refused,
    Cancelled,
    ExpiredWaiting,
    ExpiredRunning,
    Lost,
}

/// One tenant's meters.
#[derive(Debug, Default)]
pub(super) struct TenantMeter {
    name: Option<Arc<str>>,
    requests: Outcomes,
    computed: u64,
    /// Tokens served in the fairness window at hand.
    served: u64,
    /// Tokens of its requests that wait.
    pub(super) waiting: u64,
    ttft: Histogram,
    e2e: Histogram,
}

/// How things stand while a step runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) tokens: u64,
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// Blocks held.
    pub(super) held: usize,
}

/// What the levels are shares of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) budget: usize,
    pub(super) seats: usize,
    pub(super) blocks: usize,
}

#[derive(Debug)]
pub(super) struct Meters {
    capacity: Capacity,
    /// When the first request came.
    pub(super) began: u64,
    steps: u64,
    requests: Outcomes,
    pub(super) tokens: Tokens,
    pub(super) queueing: Histogram,
    ttft: Histogram,
    pub(super) itl: Histogram,
    e2e: Histogram,
    pub(super) preemptions: Histogram,
    fairness: Fairness,
    tenants: Vec<TenantMeter>,
    by_name: HashMap<Option<Arc<str>>, u32>,
    timeline: Timeline,
    busy: u64,
    seat_time: f64,
    held_time: f64,
    peak_held: usize,
}

impl Meters {
    pub(super) fn new(capacity: Capacity, window: u64) -> Self {
        Self {
            capacity,
            began: 0,
            steps: 0,
            requests: Outcomes::default(),
            tokens: Tokens::default(),
            queueing: Histogram::default(),
            ttft: Histogram::default(),
            itl: Histogram::default(),
            e2e: Histogram::default(),
            preemptions: Histogram::default(),
            fairness: Fairness::new(window),
            tenants: Vec::new(),
            by_name: HashMap::new(),
            timeline: Timeline::new(),
            busy: 0,
            seat_time: 0.0,
            held_time: 0.0,
            peak_held: 0,
        }
    }

    /// The number of a tenant; a new one for a new name.
    pub(super) fn tenant(&mut self, name: &Option<Arc<str>>) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let number = self.tenants.len() as u32;
        self.by_name.insert(name.clone(), number);
        self.tenants.push(TenantMeter {
            name: name.clone(),
            ..TenantMeter::default()
        });
        number
    }

    pub(super) fn of(&mut self, tenant: u32) -> &mut TenantMeter {
        &mut self.tenants[tenant as usize]
    }

    pub(super) fn ended(&mut self, tenant: u32, ending: Ending) {
        for outcomes in [
            &mut self.requests,
            &mut self.tenants[tenant as usize].requests,
        ] {
            outcomes.total += 1;
            *match ending {
                Ending::Finished => &mut outcomes.finished,
                Ending::TooLong => &mut outcomes.refused_too_long,
                Ending::Refused => &mut outcomes.refused,
                Ending::Cancelled => &mut outcomes.cancelled,
                Ending::ExpiredWaiting => &mut outcomes.expired_waiting,
                Ending::ExpiredRunning => &mut outcomes.expired_running,
                Ending::Lost => &mut outcomes.lost,
            } += 1;
        }
    }

    /// Positions of a row.
    pub(super) fn served(&mut self, tenant: u32, tokens: u64) {
        let tenant = self.of(tenant);
        tenant.computed += tokens;
        tenant.served += tokens;
    }

    pub(super) fn first_token(&mut self, tenant: u32, after: u64) {
        self.ttft.record(after);
        self.of(tenant).ttft.record(after);
    }

    pub(super) fn finished(&mut self, tenant: u32, after: u64) {
        self.e2e.record(after);
        self.of(tenant).e2e.record(after);
    }

    /// A step ran from `from` to `to`.
    pub(super) fn step(&mut self, from: u64, to: u64, level: &Level) {
        let took = to - from;
        self.steps += 1;
        self.busy += took;
        self.tokens.computed += level.tokens;
        self.seat_time += took as f64 * level.running as f64;
        self.held_time += took as f64 * level.held as f64;
        self.peak_held = self.peak_held.max(level.held);
        let slot = Slot {
            running: level.running as f64,
            waiting: level.waiting as f64,
            kv: level.held as f64 / self.capacity.blocks.max(1) as f64,
            tokens: level.tokens as f64 / took.max(1) as f64,
        };
        self.timeline.add(from - self.began, to - self.began, &slot);
        if self.fairness.is_due(to) {
            self.close_window(to);
        }
    }

    fn close_window(&mut self, now: u64) {
        let tenants = self.tenants.iter_mut();
        let claims = tenants.map(|t| (std::mem::take(&mut t.served), t.waiting));
        self.fairness.close(now, claims);
    }

    pub(super) fn report(mut self, now: u64) -> Report {
        self.close_window(now);
        let elapsed = now.saturating_sub(self.began);
        let in_all = seconds(elapsed).max(f64::MIN_POSITIVE);
        let in_steps = (self.busy as f64).max(1.0);
        let capacity = self.capacity;
        let of = |sum: f64, most: usize| sum / most.max(1) as f64;
        let a_second = |count: u64| {
            if elapsed == 0 {
                0.0
            } else {
                count as f64 / in_all
            }
        };
        let [p50, p99] = self.preemptions.quantiles([0.5, 0.99]);
        let tenants = self.tenants.iter().map(|tenant| TenantReport {
            name: tenant.name.as_deref().map(str::to_owned),
            requests: tenant.requests,
            computed_tokens: tenant.computed,
            ttft: Distribution::of(&tenant.ttft),
            e2e: Distribution::of(&tenant.e2e),
        });
        Report {
            seconds: seconds(elapsed),
            steps: self.steps,
            requests: self.requests,
            tokens: self.tokens,
            throughput: Throughput {
                requests_per_s: a_second(self.requests.finished),
                generated_per_s: a_second(self.tokens.generated),
                computed_per_s: a_second(self.tokens.computed),
            },
            queueing: Distribution::with_curve(&self.queueing),
            ttft: Distribution::with_curve(&self.ttft),
            itl: Distribution::with_curve(&self.itl),
            e2e: Distribution::with_curve(&self.e2e),
            preemptions: Preemptions {
                total: self.preemptions.sum() as u64,
                requests: self.preemptions.count() - self.preemptions.zeros(),
                mean: self.preemptions.mean(),
                p50,
                p99,
                max: self.preemptions.max(),
            },
            fairness: self.fairness.index(),
            utilisation: Utilisation {
                busy: if elapsed == 0 {
                    0.0
                } else {
                    self.busy as f64 / elapsed as f64
                },
                budget: of(
                    self.tokens.computed as f64 / self.steps.max(1) as f64,
                    capacity.budget,
                ),
                seats: of(self.seat_time / in_steps, capacity.seats),
                kv: of(self.held_time / in_steps, capacity.blocks),
                kv_peak: of(self.peak_held as f64, capacity.blocks),
            },
            tenants: tenants.collect(),
            timeline: samples(&self.timeline),
        }
    }
}

fn samples(timeline: &Timeline) -> Vec<Sample> {
    let (width, slots) = timeline.slots();
    let width_s = seconds(width);
    let sample = |(at, slot): (usize, &Slot)| Sample {
        seconds: (at as f64 + 1.0) * width_s,
        running: slot.running / width as f64,
        waiting: slot.waiting / width as f64,
        kv: slot.kv / width as f64,
        computed_per_s: slot.tokens / width_s,
    };
    slots.iter().enumerate().map(sample).collect()
}
