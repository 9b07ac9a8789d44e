//! One replica's try at a request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::error::panic_message;
use llmserve_core::{Error, Event, EventStream, Request};

use crate::estimate::estimated_tokens;
use crate::failover::is_about_replica;
use crate::load::{InFlight, Load};
use crate::replica::Replica;

/// A replica's stream, and the count of it.
///
/// Whatever the replica does, panics included, comes out of [`poll`](Self::poll) as an item.
pub(crate) struct Attempt {
    /// None once dropped; the replica then knows that nobody listens.
    stream: Option<EventStream>,
    /// None once every choice has finished, though the reader may not have come back yet.
    in_flight: Option<InFlight>,
    load: Arc<Load>,
    /// Whether it has been counted as failed; once is enough.
    failed: bool,
    /// Choices that have not finished.
    unfinished: usize,
    /// How long after the call of the router it was dispatched.
    behind: Duration,
}

impl Attempt {
    /// Sends `request` to `replica`, `behind` after the router was called. Counted from here on.
    pub(crate) fn dispatch(replica: &Replica, mut request: Request, behind: Duration) -> Self {
        let in_flight = InFlight::dispatch(&replica.load, estimated_tokens(&request));
        let unfinished = request.n;
        request.deadline = request.deadline.map(|left| left.saturating_sub(behind));
        let stream = catch_unwind(AssertUnwindSafe(|| replica.service.generate(request)))
            .unwrap_or_else(|panic| EventStream::failed(panicked(&*panic)));
        Self {
            stream: Some(stream),
            in_flight: Some(in_flight),
            load: replica.load.clone(),
            failed: false,
            unfinished,
            behind,
        }
    }

    /// The replica's next item, its timings counted from the call of the router.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let item = catch_unwind(AssertUnwindSafe(|| Pin::new(stream).poll_next(cx)))
            .unwrap_or_else(|panic| Poll::Ready(Some(Err(panicked(&*panic)))));
        match item {
            Poll::Ready(Some(Ok(event))) => Poll::Ready(Some(Ok(self.pass(event)))),
            Poll::Ready(Some(Err(error))) => {
                if is_about_replica(&error) {
                    self.count_failure();
                }
                Poll::Ready(Some(Err(error)))
            }
            other => other,
        }
    }

    fn count_failure(&mut self) {
        if !std::mem::replace(&mut self.failed, true) {
            self.load.count_failure();
        }
    }

    fn pass(&mut self, mut event: Event) -> Event {
        if let Event::Finished(finished) = &mut event {
            finished.timings = finished.timings.later(self.behind);
            self.unfinished = self.unfinished.saturating_sub(1);
            if self.unfinished == 0 {
                self.in_flight = None;
            }
        }
        event
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // First the replica is told, then it counts as free. A stream that panics when it is
        // dropped must not take the reader along.
        if let Some(stream) = self.stream.take()
            && catch_unwind(AssertUnwindSafe(|| drop(stream))).is_err()
        {
            self.count_failure();
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    Error::Panicked {
        part: "replica",
        message: panic_message(panic),
    }
}
