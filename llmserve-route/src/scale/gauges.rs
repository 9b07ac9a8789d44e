//! What others may scale by.

use std::sync::Arc;

use llmserve_core::{Gauge, Recorder};

use super::autoscaler::Tick;
use super::signals::Signals;

/// [`Signals`] as gauges, for others to scale by, such as Kubernetes' HPA or KEDA. An
/// [`Autoscaler`](super::Autoscaler) sets the same ones.
///
/// | gauge, with the label `service` | what |
/// | --- | --- |
/// | `llmserve_route_scale_utilization` | [`Signals::utilization`] |
/// | `llmserve_route_scale_queue` | [`Signals::queue`] |
/// | `llmserve_route_scale_first_token_p95_seconds` | [`Signals::p95`] |
/// | `llmserve_route_scale_demand` | [`Signals::demand`] |
///
/// What is not known is `NaN`, and not what it was when it was last known.
///
/// ```
/// use std::time::Duration;
/// use llmserve_core::MemoryRecorder;
/// use llmserve_route::scale::{SignalGauges, Signals};
/// let recorder = MemoryRecorder::default();
/// let gauges = SignalGauges::new(&recorder, "chat");
/// gauges.set(&Signals::new(Duration::ZERO, 2).queue(3.0));
/// let text = recorder.render();
/// assert!(text.contains("llmserve_route_scale_queue{service=\"chat\"} 3\n"));
/// assert!(text.contains("llmserve_route_scale_demand{service=\"chat\"} NaN\n"));
/// ```
pub struct SignalGauges {
    utilization: Arc<dyn Gauge>,
    queue: Arc<dyn Gauge>,
    p95: Arc<dyn Gauge>,
    demand: Arc<dyn Gauge>,
}

impl SignalGauges {
    /// Those of `service` in `recorder`.
    pub fn new(recorder: &dyn Recorder, service: &str) -> Self {
        let gauge = |name, help| recorder.gauge(name, help, &[("service", service)]);
        Self {
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
        }
    }

    /// Sets them to what was measured.
    pub fn set(&self, signals: &Signals) {
        let p95 = signals.p95.map(|time| time.as_secs_f64());
        for (gauge, value) in [
            (&self.utilization, signals.utilization),
            (&self.queue, signals.queue),
            (&self.p95, p95),
            (&self.demand, signals.demand),
        ] {
            gauge.set(value.unwrap_or(f64::NAN));
        }
    }
}

impl std::fmt::Debug for SignalGauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignalGauges").finish_non_exhaustive()
    }
}

/// The autoscaler's gauges.
pub(super) struct Gauges {
    signals: SignalGauges,
    replicas: Arc<dyn Gauge>,
    desired: Arc<dyn Gauge>,
    forecast: Arc<dyn Gauge>,
}

impl Gauges {
    pub(super) fn new(recorder: &dyn Recorder, service: &str) -> Self {
        let gauge = |name, help| recorder.gauge(name, help, &[("service", service)]);
        Self {
            signals: SignalGauges::new(recorder, service),
            replicas: gauge("llmserve_route_scale_replicas", "Replicas that answer."),
            desired: gauge(
                "llmserve_route_scale_desired_replicas",
                "Replicas there should be.",
            ),
            forecast: gauge(
                "llmserve_route_scale_forecast",
                "Requests a second expected when a replica that is begun now answers.",
            ),
        }
    }

    pub(super) fn measured(&self, signals: &Signals) {
        self.signals.set(signals);
    }

    pub(super) fn decided(&self, tick: &Tick) {
        self.replicas.set(tick.current as f64);
        self.desired.set(tick.decision.replicas as f64);
        if let Some(forecast) = tick.forecast {
            self.forecast.set(forecast.per_second);
        }
    }
}
