//! What others may scale by.

use std::sync::Arc;

use llmserve_core::{Gauge, Recorder};

use super::autoscaler::Tick;
use super::signals::Signals;

/// The autoscaler's gauges.
pub(super) struct Gauges {
    replicas: Arc<dyn Gauge>,
    desired: Arc<dyn Gauge>,
    utilization: Arc<dyn Gauge>,
    queue: Arc<dyn Gauge>,
    p95: Arc<dyn Gauge>,
    demand: Arc<dyn Gauge>,
    forecast: Arc<dyn Gauge>,
}

impl Gauges {
    pub(super) fn new(recorder: &dyn Recorder, service: &str) -> Self {
        let gauge = |name, help| recorder.gauge(name, help, &[("service", service)]);
        Self {
            replicas: gauge("llmserve_route_scale_replicas", "Replicas that answer."),
            desired: gauge(
                "llmserve_route_scale_desired_replicas",
                "Replicas there should be.",
            ),
            utilization: gauge(
                "llmserve_route_scale_utilization",
                "The part of what replicas can do that they do.",
            ),
            queue: gauge("llmserve_route_scale_queue", "Requests that wait."),
            p95: gauge(
                "llmserve_route_scale_first_token_p95_seconds",
                "The time to the first token that 95 of 100 requests keep.",
            ),
            demand: gauge(
                "llmserve_route_scale_demand",
                "Requests that come in a second.",
            ),
            forecast: gauge(
                "llmserve_route_scale_forecast",
                "Requests a second expected when a replica that is begun now answers.",
            ),
        }
    }

    /// What is not known keeps its last value.
    pub(super) fn measured(&self, signals: &Signals) {
        let p95 = signals.p95.map(|time| time.as_secs_f64());
        for (gauge, value) in [
            (&self.utilization, signals.utilization),
            (&self.queue, signals.queue),
            (&self.p95, p95),
            (&self.demand, signals.demand),
        ] {
            if let Some(value) = value {
                gauge.set(value);
            }
        }
    }

    pub(super) fn decided(&self, tick: &Tick) {
        self.replicas.set(tick.current as f64);
        self.desired.set(tick.decision.replicas as f64);
        if let Some(forecast) = tick.forecast {
            self.forecast.set(forecast.per_second);
        }
    }
}
