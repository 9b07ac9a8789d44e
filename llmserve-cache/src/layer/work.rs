//! What a flight drives: a lookup that takes time, and then, if it must be, the run.
//!
//! ```text
//!  looking ──── hit ────► found
//!     └─ miss ─► running ─► events, end
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{Error, Event, EventStream, Request, Time};

use super::Shared;
use crate::epoch::Stamp;
use crate::flight::{Progress, Work, panicked};
use crate::store::LookingUp;

/// One starter's request on its way to an answer.
pub(crate) struct Run {
    shared: Arc<Shared>,
    called: Time,
    stamp: Stamp,
    stage: Stage,
}

enum Stage {
    Looking {
        lookup: LookingUp,
        request: Box<Request>,
    },
    Running {
        inner: EventStream,
        /// How long after the call of the layer the inner service was called.
        behind: Duration,
    },
    Failed(Option<Error>),
}

impl Run {
    /// A run for `request` at once, `behind` after the call of the layer.
    pub(super) fn at_once(
        shared: &Arc<Shared>,
        called: Time,
        stamp: Stamp,
        request: Request,
        behind: Duration,
    ) -> Self {
        Self {
            shared: shared.clone(),
            called,
            stamp,
            stage: run(shared, request, behind),
        }
    }

    /// A run for `request` if `lookup` comes to nothing.
    pub(super) fn after(
        shared: &Arc<Shared>,
        called: Time,
        stamp: Stamp,
        request: Request,
        lookup: LookingUp,
    ) -> Self {
        Self {
            shared: shared.clone(),
            called,
            stamp,
            stage: Stage::Looking {
                lookup,
                request: Box::new(request),
            },
        }
    }
}

/// Calls the inner service.
fn run(shared: &Shared, mut request: Request, behind: Duration) -> Stage {
    request.deadline = request.deadline.map(|left| left.saturating_sub(behind));
    match catch_unwind(AssertUnwindSafe(|| shared.inner.generate(request))) {
        Ok(inner) => Stage::Running { inner, behind },
        Err(panic) => Stage::Failed(Some(panicked(&*panic))),
    }
}

impl Work for Run {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        if let Stage::Looking { lookup, .. } = &mut self.stage {
            let found = catch_unwind(AssertUnwindSafe(|| lookup.as_mut().poll(cx)));
            let found = match found {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(found)) => found,
                Err(_) => {
                    self.shared.counters.store_failure();
                    None
                }
            };
            let found = self.shared.fresh(found, self.stamp);
            let stage = std::mem::replace(&mut self.stage, Stage::Failed(None));
            let Stage::Looking { lookup, request } = stage else {
                return Poll::Ready(Progress::Ended);
            };
            discard(&self.shared, lookup);
            if let Some(found) = found {
                return Poll::Ready(Progress::Found(found));
            }
            self.shared.counters.exact_miss();
            let behind = self.shared.clock.now().saturating_sub(self.called);
            self.stage = run(&self.shared, *request, behind);
        }
        match &mut self.stage {
            Stage::Running { inner, behind } => {
                let next = match Pin::new(inner).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(next) => next,
                };
                Poll::Ready(match next {
                    Some(Ok(mut event)) => {
                        if let Event::Finished(finished) = &mut event {
                            finished.timings = finished.timings.later(*behind);
                        }
                        Progress::Event(event)
                    }
                    Some(Err(error)) => Progress::Failed(error),
                    None => Progress::Ended,
                })
            }
            Stage::Failed(error) => {
                let error = error.take();
                Poll::Ready(error.map_or(Progress::Ended, Progress::Failed))
            }
            Stage::Looking { .. } => Poll::Pending,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed(None));
        if let Stage::Looking { lookup, .. } = stage {
            discard(&self.shared, lookup);
        }
    }
}

/// Drops a lookup, which runs the store's code too.
fn discard(shared: &Shared, lookup: LookingUp) {
    if catch_unwind(AssertUnwindSafe(|| drop(lookup))).is_err() {
        shared.counters.store_failure();
    }
}
