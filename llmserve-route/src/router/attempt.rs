//! One replica's try at a request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::error::panic_message;
use llmserve_core::{Error, Event, EventStream, ModelError, Request};

use super::assigned::Assigned;
use crate::failover::is_about_replica;
use crate::outcome::End;

/// A replica's stream, and the count of it.
///
/// Whatever the replica does, panics included, comes out of [`poll`](Self::poll) as an item.
pub(crate) struct Attempt {
    /// None once dropped; the replica then knows that nobody listens.
    stream: Option<EventStream>,
    assigned: Assigned,
    /// Whether it has been counted as failed; once is enough.
    failed: bool,
    /// Choices that have not finished, and whether there were any and all have.
    unfinished: usize,
    ended: bool,
    /// How long after the call of the router it was dispatched.
    behind: Duration,
}

impl Attempt {
    /// Sends `request` to the replica it was assigned to, `behind` after the router was called.
    pub(crate) fn dispatch(assigned: Assigned, request: Request, behind: Duration) -> Self {
        let mut request = assigned.address(request);
        let unfinished = request.n;
        request.deadline = request.deadline.map(|left| left.saturating_sub(behind));
        request.on_end.push(Arc::new(assigned.on_end()));
        let service = assigned.replica().service();
        let stream = catch_unwind(AssertUnwindSafe(|| service.generate(request)))
            .unwrap_or_else(|panic| EventStream::failed(panicked(&*panic)));
        Self {
            stream: Some(stream),
            assigned,
            failed: false,
            unfinished,
            ended: false,
            behind,
        }
    }

    /// The replica's next item, its timings counted from the call of the router. Nothing comes after
    /// the end of the last choice, whatever the replica has to say; a stream that ends before that is
    /// an error.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        if self.ended {
            self.drop_stream();
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let item = catch_unwind(AssertUnwindSafe(|| Pin::new(stream).poll_next(cx)))
            .unwrap_or_else(|panic| Poll::Ready(Some(Err(panicked(&*panic)))));
        match item {
            Poll::Ready(Some(Ok(event))) => Poll::Ready(Some(Ok(self.pass(event)))),
            Poll::Ready(Some(Err(error))) => {
                self.drop_stream();
                if !matches!(error, Error::TimedOut { .. }) {
                    self.assigned.heard();
                }
                if is_about_replica(&error) {
                    self.count_failure(&error);
                } else {
                    self.assigned.end(End::Refused(&error));
                }
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                let error = ModelError::Backend("the answer broke off".to_owned()).into();
                self.fail(&error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Who answers.
    pub(crate) fn assigned(&self) -> &Assigned {
        &self.assigned
    }

    /// Gives it up: the replica failed with `error`.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.drop_stream();
        self.count_failure(error);
    }

    fn count_failure(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.failed, true) {
            self.assigned.fail(error);
        }
    }

    fn pass(&mut self, mut event: Event) -> Event {
        self.assigned.answering();
        if let Event::Finished(finished) = &mut event {
            finished.timings = finished.timings.later(self.behind);
            self.unfinished = self.unfinished.saturating_sub(1);
            if self.unfinished == 0 {
                self.ended = true;
                self.assigned.end(End::Finished);
            }
        }
        event
    }

    /// Tells the replica that nobody listens. A stream that panics when it is dropped must not
    /// take the reader along.
    fn drop_stream(&mut self) {
        if let Some(stream) = self.stream.take()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(stream)))
        {
            self.count_failure(&panicked(&*panic));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // First the replica is told, then it counts as free.
        self.drop_stream();
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    Error::Panicked {
        part: "replica",
        message: panic_message(panic),
    }
}
