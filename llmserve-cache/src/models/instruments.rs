//! What the cache tells its recorder.

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Counter, Gauge, Histogram, Recorder};

use super::state::Seen;

/// From a mapped file to a model from a slow disk.
const LOAD_SECONDS: &[f64] = &[
    0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0,
];

pub(super) struct Instruments {
    pub(super) hits: Arc<dyn Counter>,
    pub(super) waits: Arc<dyn Counter>,
    pub(super) refused: Arc<dyn Counter>,
    loaded: Arc<dyn Counter>,
    failed: Arc<dyn Counter>,
    evictions: Arc<dyn Counter>,
    load_seconds: Arc<dyn Histogram>,
    bytes: Arc<dyn Gauge>,
    waiting: Arc<dyn Gauge>,
}

impl Instruments {
    pub(super) fn new(recorder: &dyn Recorder) -> Self {
        let requests = |result| {
            recorder.counter(
                "llmserve_model_cache_requests_total",
                "Requests by what they found of their model.",
                &[("result", result)],
            )
        };
        let loads = |result| {
            recorder.counter(
                "llmserve_model_cache_loads_total",
                "Loads of models.",
                &[("result", result)],
            )
        };
        Self {
            hits: requests("loaded"),
            waits: requests("waits"),
            refused: requests("refused"),
            loaded: loads("ok"),
            failed: loads("failed"),
            evictions: recorder.counter(
                "llmserve_model_cache_evictions_total",
                "Models unloaded for want of room.",
                &[],
            ),
            load_seconds: recorder.histogram(
                "llmserve_model_cache_load_seconds",
                "How long loads took that succeeded.",
                LOAD_SECONDS,
                &[],
            ),
            bytes: recorder.gauge(
                "llmserve_model_cache_bytes",
                "Bytes that models take, those included that are being loaded or unloaded.",
                &[],
            ),
            waiting: recorder.gauge(
                "llmserve_model_cache_waiting",
                "Requests that wait for their model.",
                &[],
            ),
        }
    }

    pub(super) fn took(&self, load: Duration) {
        self.load_seconds.record(load.as_secs_f64());
    }

    /// Tells what the keeper has seen change, and what there is.
    pub(super) fn tell(&self, before: Seen, now: Seen) {
        for (counter, before, now) in [
            (&self.loaded, before.loads, now.loads),
            (&self.failed, before.failures, now.failures),
            (&self.evictions, before.evictions, now.evictions),
        ] {
            if now > before {
                counter.add(now - before);
            }
        }
        self.bytes.set(now.bytes as f64);
        self.waiting.set(now.waiting as f64);
    }
}
