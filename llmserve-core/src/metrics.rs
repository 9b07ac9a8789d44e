//! What is measured, and where it goes.
//!
//! Parts ask a [`Recorder`] for their counters, gauges and histograms once, when they are built,
//! and then only touch the handles. Nothing is global: two engines have two recorders, or share
//! one and differ by label.

mod guarded;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

pub use guarded::GuardedRecorder;

/// Only goes up.
pub trait Counter: Send + Sync {
    /// Adds to it.
    fn add(&self, by: u64);
}

/// Goes up and down.
pub trait Gauge: Send + Sync {
    /// Replaces its value.
    fn set(&self, value: f64);
}

/// A distribution.
pub trait Histogram: Send + Sync {
    /// Adds one observation.
    fn record(&self, value: f64);
}

/// Makes instruments. `labels` distinguish instruments of one name.
pub trait Recorder: Send + Sync {
    /// A counter.
    fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<dyn Counter>;

    /// A gauge.
    fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<dyn Gauge>;

    /// A histogram with these upper bounds, ascending; one above them is implied.
    fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: &[(&str, &str)],
    ) -> Arc<dyn Histogram>;
}

/// Records nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopRecorder;

struct Noop;
impl Counter for Noop {
    fn add(&self, _: u64) {}
}
impl Gauge for Noop {
    fn set(&self, _: f64) {}
}
impl Histogram for Noop {
    fn record(&self, _: f64) {}
}

impl Recorder for NoopRecorder {
    fn counter(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Counter> {
        Arc::new(Noop)
    }
    fn gauge(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Gauge> {
        Arc::new(Noop)
    }
    fn histogram(
        &self,
        _: &'static str,
        _: &'static str,
        _: &'static [f64],
        _: &[(&str, &str)],
    ) -> Arc<dyn Histogram> {
        Arc::new(Noop)
    }
}

/// Keeps everything in memory and prints it in Prometheus' text format.
///
/// ```
/// use llmserve_core::{MemoryRecorder, Recorder};
/// let recorder = MemoryRecorder::default();
/// recorder.counter("hits_total", "Hits.", &[("model", "bard")]).add(2);
/// assert_eq!(recorder.value("hits_total"), Some(2.0));
/// assert!(recorder.render().contains("hits_total{model=\"bard\"} 2\n"));
/// ```
#[derive(Default)]
pub struct MemoryRecorder {
    instruments: Mutex<Vec<Instrument>>,
}

struct Instrument {
    name: &'static str,
    help: &'static str,
    labels: String,
    cell: Cell,
}

#[derive(Clone)]
enum Cell {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<GaugeCell>),
    Histogram(Arc<HistogramCell>),
}

struct GaugeCell(AtomicU64);

struct HistogramCell {
    bounds: &'static [f64],
    state: Mutex<HistogramState>,
}

struct HistogramState {
    counts: Vec<u64>,
    sum: f64,
}

impl Counter for AtomicU64 {
    fn add(&self, by: u64) {
        self.fetch_add(by, Ordering::Relaxed);
    }
}

impl Gauge for GaugeCell {
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl Histogram for HistogramCell {
    fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        let mut state = self.state.lock();
        state.counts[bucket] += 1;
        state.sum += value;
    }
}

impl MemoryRecorder {
    /// The value of the instruments of this name, over all labels: a sum of counters or gauges,
    /// or a histogram's count. None if there is none.
    pub fn value(&self, name: &str) -> Option<f64> {
        let instruments = self.instruments.lock();
        let mut found = instruments.iter().filter(|i| i.name == name).peekable();
        found.peek()?;
        Some(found.map(|instrument| instrument.cell.value()).sum())
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut last = "";
        let instruments = self.instruments.lock();
        let mut order: Vec<&Instrument> = instruments.iter().collect();
        order.sort_by_key(|instrument| instrument.name);
        for instrument in order {
            if instrument.name != last {
                last = instrument.name;
                let kind = match instrument.cell {
                    Cell::Counter(_) => "counter",
                    Cell::Gauge(_) => "gauge",
                    Cell::Histogram(_) => "histogram",
                };
                let _ = writeln!(out, "# HELP {last} {}", instrument.help);
                let _ = writeln!(out, "# TYPE {last} {kind}");
            }
            instrument.render(&mut out);
        }
        out
    }

    fn find(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        make: impl FnOnce() -> Cell,
    ) -> Cell {
        let labels = render_labels(labels);
        let mut instruments = self.instruments.lock();
        let found = instruments
            .iter()
            .find(|i| i.name == name && i.labels == labels);
        if let Some(instrument) = found {
            return instrument.cell.clone();
        }
        let cell = make();
        instruments.push(Instrument {
            name,
            help,
            labels,
            cell: cell.clone(),
        });
        cell
    }
}

impl Cell {
    fn value(&self) -> f64 {
        match self {
            Cell::Counter(cell) => cell.load(Ordering::Relaxed) as f64,
            Cell::Gauge(cell) => f64::from_bits(cell.0.load(Ordering::Relaxed)),
            Cell::Histogram(cell) => cell.state.lock().counts.iter().sum::<u64>() as f64,
        }
    }
}

impl Instrument {
    fn render(&self, out: &mut String) {
        let Self {
            name, labels, cell, ..
        } = self;
        let braced = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        let _ = match cell {
            Cell::Counter(_) | Cell::Gauge(_) => writeln!(out, "{name}{braced} {}", cell.value()),
            Cell::Histogram(cell) => {
                let state = cell.state.lock();
                let comma = if labels.is_empty() { "" } else { "," };
                let bounds = cell.bounds.iter().copied().chain([f64::INFINITY]);
                let mut total = 0;
                for (bound, count) in bounds.zip(&state.counts) {
                    total += count;
                    let le = if bound.is_finite() {
                        bound.to_string()
                    } else {
                        "+Inf".to_owned()
                    };
                    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {total}");
                }
                let _ = writeln!(out, "{name}_sum{braced} {}", state.sum);
                writeln!(out, "{name}_count{braced} {total}")
            }
        };
    }
}

fn render_labels(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(out, "{key}=\"{value}\"");
    }
    out
}

impl Recorder for MemoryRecorder {
    fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<dyn Counter> {
        match self.find(name, help, labels, || Cell::Counter(Arc::default())) {
            Cell::Counter(cell) => cell,
            // A name of another kind keeps its kind; this instrument records nothing.
            _ => Arc::new(Noop),
        }
    }

    fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<dyn Gauge> {
        let make = || Cell::Gauge(Arc::new(GaugeCell(AtomicU64::new(0f64.to_bits()))));
        match self.find(name, help, labels, make) {
            Cell::Gauge(cell) => cell,
            _ => Arc::new(Noop),
        }
    }

    fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: &[(&str, &str)],
    ) -> Arc<dyn Histogram> {
        let make = || {
            Cell::Histogram(Arc::new(HistogramCell {
                bounds,
                state: Mutex::new(HistogramState {
                    counts: vec![0; bounds.len() + 1],
                    sum: 0.0,
                }),
            }))
        };
        match self.find(name, help, labels, make) {
            Cell::Histogram(cell) => cell,
            _ => Arc::new(Noop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text() {
        let recorder = MemoryRecorder::default();
        recorder.gauge("running", "Now.", &[]).set(3.0);
        let h = recorder.histogram("t", "Seconds.", &[0.1, 1.0], &[("model", "a\"b")]);
        h.record(0.1);
        h.record(0.5);
        h.record(9.0);
        let text = recorder.render();
        assert!(text.contains("# TYPE running gauge\nrunning 3\n"), "{text}");
        assert!(
            text.contains("t_bucket{model=\"a\\\"b\",le=\"0.1\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("t_bucket{model=\"a\\\"b\",le=\"+Inf\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("t_sum{model=\"a\\\"b\"} 9.6\n"), "{text}");
    }

    #[test]
    fn same_name_and_labels_share_a_cell() {
        let recorder = MemoryRecorder::default();
        recorder.counter("c", "", &[("m", "x")]).add(1);
        recorder.counter("c", "", &[("m", "x")]).add(1);
        recorder.counter("c", "", &[("m", "y")]).add(1);
        assert_eq!(recorder.value("c"), Some(3.0));
        assert_eq!(recorder.value("d"), None);
    }
}
