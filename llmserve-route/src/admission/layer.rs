//! Admission as a service around a service.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llmserve_core::error::panic_message;
use llmserve_core::{Error, EventStream, Generate, Request};

use super::builder::AdmissionBuilder;
use super::state::Shared;
use super::ticket::Admitted;
use crate::estimate::estimated_tokens;

pub(super) type ClassOf = dyn Fn(&Request) -> usize + Send + Sync;

/// A service in which so many requests run at once and the others wait for their turn. Cheap to
/// clone.
///
/// Waiting counts for deadlines and timings. A request whose reader goes away leaves the queue; one
/// that waits longer than its deadline or its class allows ends with
/// [`Error::TimedOut`], and one that finds the queue of its class full with [`Error::Overloaded`].
///
/// ```
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// use llmserve_route::admission::{Admission, Class};
/// # struct Silent;
/// # impl Generate for Silent {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::ready([])
/// #     }
/// # }
/// let service = Admission::builder(Silent, 8)
///     .class(Class::new("interactive").weight(8).reserved(2))
///     .class(Class::new("batch").queue(10_000))
///     .classify(|request| usize::from(request.priority > 0))
///     .build()?;
/// assert!(service.generate(Request::text("Hi")).wait().is_ok());
/// assert_eq!(service.stats().classes[0].admitted, 1);
/// # Ok::<(), llmserve_route::admission::AdmissionError>(())
/// ```
#[derive(Clone)]
pub struct Admission {
    pub(super) shared: Arc<Shared>,
    pub(super) class_of: Arc<ClassOf>,
}

impl Admission {
    /// Starts putting together a service that lets `places` requests run at once in `inner`.
    pub fn builder(inner: impl Generate + 'static, places: usize) -> AdmissionBuilder {
        AdmissionBuilder::new(Arc::new(inner), places)
    }

    /// Who waits and who runs.
    pub fn stats(&self) -> AdmissionStats {
        self.shared.stats()
    }

    fn accept(&self, request: Request) -> Result<EventStream, Error> {
        let panicked = |message| Error::Panicked {
            part: "classifier",
            message,
        };
        let class = catch_unwind(AssertUnwindSafe(|| (self.class_of)(&request)))
            .map_err(|panic| panicked(panic_message(&*panic)))?;
        let classes = self.shared.classes.len();
        if class >= classes {
            return Err(panicked(format!("said class {class} of {classes}")));
        }
        let tokens = estimated_tokens(&request);
        let ticket = self.shared.enter(class, tokens, request)?;
        Ok(EventStream::new(Admitted::new(self.shared.clone(), ticket)))
    }
}

impl Generate for Admission {
    fn generate(&self, request: Request) -> EventStream {
        self.accept(request).unwrap_or_else(EventStream::failed)
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission")
            .field("places", &self.shared.places)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Who waits and who runs, as one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Places taken.
    pub running: usize,
    /// Each class, in the order they were given.
    pub classes: Vec<ClassStats>,
}

/// One class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStats {
    /// Its name.
    pub name: String,
    /// Requests that wait.
    pub waiting: usize,
    /// Places it has.
    pub running: usize,
    /// Requests that ever got a place.
    pub admitted: u64,
    /// How many of them for their long wait.
    pub promoted: u64,
}
