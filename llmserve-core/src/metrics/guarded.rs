//! Measuring must not break what is measured.

use std::sync::Arc;

use super::{Counter, Gauge, Histogram, Noop, Recorder};
use crate::error::guarded;

/// A host's recorder of which no panic gets out: an instrument that cannot be made records
/// nothing, and an observation that cannot be taken is lost.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_core::{Counter, Gauge, GuardedRecorder, Histogram, Recorder};
///
/// struct Broken;
/// impl Recorder for Broken {
///     fn counter(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Counter> {
///         panic!("no counters here")
///     }
///     fn gauge(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Gauge> {
///         panic!("no gauges here")
///     }
///     fn histogram(
///         &self,
///         _: &'static str,
///         _: &'static str,
///         _: &'static [f64],
///         _: &[(&str, &str)],
///     ) -> Arc<dyn Histogram> {
///         panic!("no histograms here")
///     }
/// }
/// GuardedRecorder::new(Arc::new(Broken)).counter("hits_total", "Hits.", &[]).add(1);
/// ```
pub struct GuardedRecorder(Arc<dyn Recorder>);

impl GuardedRecorder {
    /// Guards the instruments that are made through it. Those that `recorder` makes for others
    /// are not concerned.
    pub fn new(recorder: Arc<dyn Recorder>) -> Self {
        Self(recorder)
    }
}

impl Recorder for GuardedRecorder {
    fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<dyn Counter> {
        match guarded(|| self.0.counter(name, help, labels)) {
            Ok(counter) => Arc::new(Guarded(counter)),
            Err(_) => Arc::new(Noop),
        }
    }

    fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<dyn Gauge> {
        match guarded(|| self.0.gauge(name, help, labels)) {
            Ok(gauge) => Arc::new(Guarded(gauge)),
            Err(_) => Arc::new(Noop),
        }
    }

    fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: &[(&str, &str)],
    ) -> Arc<dyn Histogram> {
        match guarded(|| self.0.histogram(name, help, bounds, labels)) {
            Ok(histogram) => Arc::new(Guarded(histogram)),
            Err(_) => Arc::new(Noop),
        }
    }
}

impl std::fmt::Debug for GuardedRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedRecorder").finish_non_exhaustive()
    }
}

/// An instrument of the host's.
struct Guarded<T: ?Sized>(Arc<T>);

impl Counter for Guarded<dyn Counter> {
    fn add(&self, by: u64) {
        let _ = guarded(|| self.0.add(by));
    }
}

impl Gauge for Guarded<dyn Gauge> {
    fn set(&self, value: f64) {
        let _ = guarded(|| self.0.set(value));
    }
}

impl Histogram for Guarded<dyn Histogram> {
    fn record(&self, value: f64) {
        let _ = guarded(|| self.0.record(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MemoryRecorder;

    /// Panics when it is dropped, and so does what it panics with.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }
    impl Counter for Bomb {
        fn add(&self, _: u64) {
            std::panic::panic_any(Bomb);
        }
    }

    #[test]
    fn what_a_panic_leaves_behind_does_not_panic_in_turn() {
        let counter: Arc<dyn Counter> = Arc::new(Bomb);
        Guarded(counter.clone()).add(1);
        std::mem::forget(counter);
    }

    #[test]
    fn what_works_is_passed_on() {
        let host = Arc::new(MemoryRecorder::default());
        let recorder = GuardedRecorder::new(host.clone());
        recorder.counter("c", "", &[("m", "x")]).add(2);
        recorder.gauge("g", "", &[]).set(1.5);
        recorder.histogram("h", "", &[1.0], &[]).record(0.5);
        assert_eq!(host.value("c"), Some(2.0));
        assert_eq!(host.value("g"), Some(1.5));
        assert_eq!(host.value("h"), Some(1.0));
        assert!(host.render().contains("c{m=\"x\"} 2\n"));
    }
}
