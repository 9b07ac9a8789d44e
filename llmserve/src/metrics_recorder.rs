//! The engine's metrics through the `metrics` crate's facade.

use std::sync::Arc;

use llmserve_core::{Counter, Gauge, Histogram, Recorder};

/// Hands every instrument to the recorder the host installed for the [`metrics`] crate, as it is
/// when the engine is built. Histogram bounds are that recorder's business.
///
/// ```
/// use std::sync::Arc;
/// use llmserve::Recorder;
/// let recorder: Arc<dyn Recorder> = Arc::new(llmserve::MetricsRecorder);
/// recorder.counter("llmserve_example_total", "An example.", &[("model", "bard")]).add(1);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricsRecorder;

struct Handle<T>(T);

impl Counter for Handle<metrics::Counter> {
    fn add(&self, by: u64) {
        self.0.increment(by);
    }
}

impl Gauge for Handle<metrics::Gauge> {
    fn set(&self, value: f64) {
        self.0.set(value);
    }
}

impl Histogram for Handle<metrics::Histogram> {
    fn record(&self, value: f64) {
        self.0.record(value);
    }
}

fn labels(labels: &[(&str, &str)]) -> Vec<metrics::Label> {
    labels
        .iter()
        .map(|(key, value)| metrics::Label::new(key.to_string(), value.to_string()))
        .collect()
}

impl Recorder for MetricsRecorder {
    fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        tags: &[(&str, &str)],
    ) -> Arc<dyn Counter> {
        metrics::describe_counter!(name, help);
        Arc::new(Handle(metrics::counter!(name, labels(tags))))
    }

    fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        tags: &[(&str, &str)],
    ) -> Arc<dyn Gauge> {
        metrics::describe_gauge!(name, help);
        Arc::new(Handle(metrics::gauge!(name, labels(tags))))
    }

    fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        _bounds: &'static [f64],
        tags: &[(&str, &str)],
    ) -> Arc<dyn Histogram> {
        metrics::describe_histogram!(name, help);
        Arc::new(Handle(metrics::histogram!(name, labels(tags))))
    }
}
