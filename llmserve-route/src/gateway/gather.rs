//! The streams of a body's prompts, read as one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use llmserve_core::error::panic_message;
use llmserve_core::{Error, Event, EventStream, Generate, ModelError, Request};

/// Events of several requests, each with its request's number.
///
/// A panic of the service is an error, as is an answer that breaks off; after an error nothing is
/// left, and all is cancelled. Dropping it cancels all.
pub(super) struct Gathered {
    /// None where the answer is complete.
    streams: Vec<Option<Source>>,
    /// Whose turn it is: one that always has something ready does not keep the others waiting.
    next: usize,
}

struct Source {
    stream: EventStream,
    /// Choices that have not finished.
    unfinished: usize,
}

impl Gathered {
    /// Sends `requests` to `service`.
    pub(super) fn new(service: &dyn Generate, requests: Vec<Request>) -> Self {
        let streams = requests.into_iter().map(|request| {
            let unfinished = request.n;
            let stream = catch_unwind(AssertUnwindSafe(|| service.generate(request)))
                .unwrap_or_else(|panic| EventStream::failed(panicked(&*panic)));
            Some(Source { stream, unfinished })
        });
        Self {
            streams: streams.collect(),
            next: 0,
        }
    }

    /// The next event, of whichever request has one.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(usize, Event), Error>>> {
        let count = self.streams.len();
        let mut open = false;
        for step in 0..count {
            let at = (self.next + step) % count;
            let Some(source) = &mut self.streams[at] else {
                continue;
            };
            match source.poll(cx) {
                Poll::Pending => open = true,
                Poll::Ready(Some(Ok(event))) => {
                    if source.unfinished == 0 {
                        self.streams[at] = None;
                    }
                    self.next = at + 1;
                    return Poll::Ready(Some(Ok((at, event))));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.streams.clear();
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    self.streams.clear();
                    let broken = ModelError::Backend("the answer broke off".to_owned());
                    return Poll::Ready(Some(Err(broken.into())));
                }
            }
        }
        if open {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }

    /// [`poll_next`](Self::poll_next) as a future.
    pub(super) async fn next(&mut self) -> Option<Result<(usize, Event), Error>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        let stream = Pin::new(&mut self.stream);
        let item = catch_unwind(AssertUnwindSafe(|| stream.poll_next(cx)))
            .unwrap_or_else(|panic| Poll::Ready(Some(Err(panicked(&*panic)))));
        if let Poll::Ready(Some(Ok(Event::Finished(_)))) = &item {
            self.unfinished = self.unfinished.saturating_sub(1);
        }
        item
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // A stream that panics when it is dropped must not take the connection along.
        let stream = std::mem::replace(&mut self.stream, EventStream::ready([]));
        let _ = catch_unwind(AssertUnwindSafe(|| drop(stream)));
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    Error::Panicked {
        part: "service",
        message: panic_message(panic),
    }
}
