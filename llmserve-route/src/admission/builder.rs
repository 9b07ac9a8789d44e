//! Putting admission together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Generate, GuardedRecorder, NoopRecorder, Recorder, Request};
use parking_lot::Mutex;

use super::class::Class;
use super::layer::{Admission, ClassOf};
use super::state::{Instruments, Shared, State};
use crate::timer::{SystemTimer, Timer};

const DEFAULT_PROMOTE_AFTER: Duration = Duration::from_secs(30);

/// What is wrong with an admission's parts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// Nothing could ever run.
    #[error("no place to run in; at least 1 is needed")]
    NoPlaces,
    /// A class has the empty string for a name.
    #[error("class {index} has no name; metrics and errors need one")]
    EmptyName {
        /// Its place, from 0.
        index: usize,
    },
    /// Two classes have the same name.
    #[error("two classes are named {name:?}; names tell them apart")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A class would never have its turn.
    #[error("class {name:?} has weight 0 and would never have its turn; 1 is the least")]
    NoWeight {
        /// The class.
        name: String,
    },
    /// More places are reserved than there are.
    #[error("{reserved} places are reserved of {places}; reserve fewer or add places")]
    OverReserved {
        /// Places reserved, of all classes.
        reserved: usize,
        /// Places there are.
        places: usize,
    },
    /// All places are reserved for others.
    #[error("all {places} places are reserved for others, so class {name:?} could never run")]
    NothingLeft {
        /// The class.
        name: String,
        /// Places there are.
        places: usize,
    },
}

/// The parts of an [`Admission`].
#[must_use = "a service is made by build()"]
pub struct AdmissionBuilder {
    inner: Arc<dyn Generate>,
    places: usize,
    classes: Vec<Class>,
    class_of: Option<Arc<ClassOf>>,
    promote_after: Duration,
    timer: Arc<dyn Timer>,
    recorder: Arc<dyn Recorder>,
}

impl AdmissionBuilder {
    pub(super) fn new(inner: Arc<dyn Generate>, places: usize) -> Self {
        Self {
            inner,
            places,
            classes: Vec::new(),
            class_of: None,
            promote_after: DEFAULT_PROMOTE_AFTER,
            timer: Arc::new(SystemTimer::new()),
            recorder: Arc::new(NoopRecorder),
        }
    }

    /// Adds a class. Default: `interactive`, `normal` and `batch`, of weights 8, 4 and 1.
    pub fn class(mut self, class: Class) -> Self {
        self.classes.push(class);
        self
    }

    /// Which class a request is of, by its place among those given. Default: by its priority,
    /// below 0 the first, 0 the second, above 0 the third class; the last one where there are
    /// fewer.
    pub fn classify(
        mut self,
        class_of: impl Fn(&Request) -> usize + Send + Sync + 'static,
    ) -> Self {
        self.class_of = Some(Arc::new(class_of));
        self
    }

    /// Whoever has waited so long is next, whatever the weights say. Default: 30 s.
    pub fn promote_after(mut self, wait: Duration) -> Self {
        self.promote_after = wait;
        self
    }

    /// What time it is, and who wakes. Default: a [`SystemTimer`] of its own.
    pub fn timer(mut self, timer: Arc<dyn Timer>) -> Self {
        self.timer = timer;
        self
    }

    /// Where the gauges `llmserve_route_admission_waiting{class}` and `_running{class}`, and the
    /// counters `llmserve_route_admission_refused_total{class}` and `_gave_up_total{class}` go.
    /// Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Arc::new(GuardedRecorder::new(recorder));
        self
    }

    /// Checks the parts and puts them together.
    ///
    /// # Errors
    /// [`AdmissionError`], naming the part.
    pub fn build(self) -> Result<Admission, AdmissionError> {
        let mut classes = self.classes;
        if classes.is_empty() {
            let preset = [("interactive", 8), ("normal", 4), ("batch", 1)];
            classes.extend(preset.map(|(name, weight)| Class::new(name).weight(weight)));
        }
        check(&classes, self.places)?;
        let last = classes.len() - 1;
        let by_priority = move |request: &Request| match request.priority {
            ..0 => 0,
            0 => 1.min(last),
            1.. => 2.min(last),
        };
        let instruments = |class: &Class| {
            let labels = [("class", class.name.as_str())];
            let recorder = &self.recorder;
            Instruments {
                waiting: recorder.gauge(
                    "llmserve_route_admission_waiting",
                    "Requests waiting for a place.",
                    &labels,
                ),
                running: recorder.gauge(
                    "llmserve_route_admission_running",
                    "Requests that have a place.",
                    &labels,
                ),
                refused: recorder.counter(
                    "llmserve_route_admission_refused_total",
                    "Requests refused because the queue was full.",
                    &labels,
                ),
                gave_up: recorder.counter(
                    "llmserve_route_admission_gave_up_total",
                    "Requests that left the queue without a place.",
                    &labels,
                ),
            }
        };
        Ok(Admission {
            class_of: self.class_of.unwrap_or_else(|| Arc::new(by_priority)),
            shared: Arc::new(Shared {
                inner: self.inner,
                places: self.places,
                instruments: classes.iter().map(instruments).collect(),
                state: Mutex::new(State::new(&classes)),
                classes,
                promote_after: self.promote_after,
                timer: self.timer,
            }),
        })
    }
}

fn check(classes: &[Class], places: usize) -> Result<(), AdmissionError> {
    if places == 0 {
        return Err(AdmissionError::NoPlaces);
    }
    let mut names = BTreeSet::new();
    for (index, class) in classes.iter().enumerate() {
        let name = class.name.clone();
        if name.is_empty() {
            return Err(AdmissionError::EmptyName { index });
        }
        if class.weight == 0 {
            return Err(AdmissionError::NoWeight { name });
        }
        if !names.insert(&class.name) {
            return Err(AdmissionError::DuplicateName { name });
        }
    }
    let reserved = classes
        .iter()
        .fold(0usize, |sum, class| sum.saturating_add(class.reserved));
    if reserved > places {
        return Err(AdmissionError::OverReserved { reserved, places });
    }
    let without = classes.iter().find(|class| class.reserved == 0);
    match without {
        Some(class) if reserved == places => Err(AdmissionError::NothingLeft {
            name: class.name.clone(),
            places,
        }),
        _ => Ok(()),
    }
}
