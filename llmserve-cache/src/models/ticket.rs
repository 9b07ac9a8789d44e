//! A request that waits for its model, and the streams that readers hold.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::keeper::Shared;
use super::state::Name;
use crate::sync::Mutex;
use futures_core::Stream;
use llmserve_core::error::guarded;
use llmserve_core::{Error, Event, EventStream, Generate, Request, Time};

/// What reader and cache share of a request that waits.
pub(super) struct Ticket {
    pub(super) arrival: Time,
    stage: Mutex<Stage>,
}

/// How far a request has come.
enum Stage {
    /// Its model is not there. Its reader's waker, once it has been polled.
    Waiting(Box<Request>, Option<Waker>),
    /// It is, and `generate()` is being called.
    Starting(Option<Waker>),
    /// Answered, or failed; its reader has not come for it yet.
    Started(EventStream),
    /// With its reader, or dropped.
    Gone,
}

impl Ticket {
    pub(super) fn new(request: Request, arrival: Time) -> Self {
        Self {
            arrival,
            stage: Mutex::new(Stage::Waiting(Box::new(request), None)),
        }
    }

    /// Takes the request, unless its reader went away.
    pub(super) fn take(&self) -> Option<Box<Request>> {
        let mut stage = self.stage.lock();
        match std::mem::replace(&mut *stage, Stage::Starting(None)) {
            Stage::Waiting(request, waker) => {
                *stage = Stage::Starting(waker);
                Some(request)
            }
            other => {
                *stage = other;
                None
            }
        }
    }

    /// Hands over the answer of a request that was taken.
    pub(super) fn hand(&self, answer: EventStream) {
        let mut stage = self.stage.lock();
        match std::mem::replace(&mut *stage, Stage::Gone) {
            Stage::Starting(waker) => {
                *stage = Stage::Started(answer);
                drop(stage);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            // Its reader went away meanwhile. Dropped outside the lock: that cancels it.
            _ => {
                drop(stage);
                drop(answer);
            }
        }
    }

    /// The answer or, until there is one, a promise to wake. None once it has been taken.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<EventStream>> {
        let mut stage = self.stage.lock();
        match &mut *stage {
            Stage::Waiting(_, waker) | Stage::Starting(waker) => {
                let old = waker.replace(cx.waker().clone());
                // A waker may be a host's own code, so it goes outside of the lock.
                drop(stage);
                drop(old);
                Poll::Pending
            }
            Stage::Started(_) => match std::mem::replace(&mut *stage, Stage::Gone) {
                Stage::Started(answer) => Poll::Ready(Some(answer)),
                _ => Poll::Ready(None),
            },
            Stage::Gone => Poll::Ready(None),
        }
    }

    /// The reader goes away. Whether the request was still waiting.
    fn leave(&self) -> bool {
        let stage = std::mem::replace(&mut *self.stage.lock(), Stage::Gone);
        // An answer nobody came for is dropped here, outside the lock: that cancels it.
        matches!(stage, Stage::Waiting(..))
    }

    /// Ends a request that waits with an error.
    pub(super) fn fail(&self, error: Error) {
        if let Some(request) = self.take() {
            self.hand(EventStream::failed(error));
            drop(request);
        }
    }
}

/// The events of a request once its model is there.
pub(super) struct Waits {
    shared: Arc<Shared>,
    name: Name,
    id: u64,
    ticket: Arc<Ticket>,
    /// The answer, once it has begun.
    answer: Option<EventStream>,
}

impl Waits {
    pub(super) fn new(shared: Arc<Shared>, name: Name, id: u64, ticket: Arc<Ticket>) -> Self {
        Self {
            shared,
            name,
            id,
            ticket,
            answer: None,
        }
    }
}

impl Stream for Waits {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(answer) = &mut this.answer {
            return Pin::new(answer).poll_next(cx);
        }
        match this.ticket.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(answer)) => Pin::new(this.answer.insert(answer)).poll_next(cx),
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if self.ticket.leave() {
            self.shared.gave_up(&self.name, self.id);
        }
    }
}

/// One use of a model, which stays while it lasts.
pub(super) struct Use {
    shared: Arc<Shared>,
    name: Name,
    lasts: Lasts,
}

impl Use {
    pub(super) fn new(shared: Arc<Shared>, name: Name) -> Arc<Self> {
        Arc::new(Self {
            shared,
            name,
            lasts: Lasts::new(),
        })
    }

    fn done(&self) {
        if self.lasts.done() {
            self.shared.ended(&self.name);
        }
    }

    fn called(&self) {
        if self.lasts.called() {
            self.shared.ended(&self.name);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.lasts.dropped() {
            self.shared.ended(&self.name);
        }
    }
}

/// How long a use lasts: until its answer is complete, and at least until the call that asked for
/// it has returned, as whoever calls the service has a hold of it. Each of its methods says whether
/// the use ends with it, which exactly one does.
struct Lasts(Mutex<Stretch>);

#[derive(Clone, Copy, PartialEq)]
enum Stretch {
    Calling { done: bool },
    Answering,
    Ended,
}

impl Lasts {
    fn new() -> Self {
        Self(Mutex::new(Stretch::Calling { done: false }))
    }

    /// The answer is complete, perhaps before the call has returned.
    fn done(&self) -> bool {
        let mut stretch = self.0.lock();
        let (next, ends) = match *stretch {
            Stretch::Calling { .. } => (Stretch::Calling { done: true }, false),
            Stretch::Answering => (Stretch::Ended, true),
            Stretch::Ended => (Stretch::Ended, false),
        };
        *stretch = next;
        ends
    }

    /// The call has returned, and nobody has a hold of the service for this use any more.
    fn called(&self) -> bool {
        let mut stretch = self.0.lock();
        let ends = *stretch == Stretch::Calling { done: true };
        *stretch = match ends {
            true => Stretch::Ended,
            false => Stretch::Answering,
        };
        ends
    }

    /// Nobody uses it any more, whatever came of it.
    fn dropped(&self) -> bool {
        std::mem::replace(&mut *self.0.lock(), Stretch::Ended) != Stretch::Ended
    }
}

/// Asks a model that is there, `waited` after the call, and lets it go once it has answered.
pub(super) fn start(
    service: Arc<dyn Generate>,
    used: Arc<Use>,
    mut request: Request,
    waited: Duration,
) -> EventStream {
    request.deadline = request.deadline.map(|left| left.saturating_sub(waited));
    let ended = Arc::downgrade(&used);
    request.on_end.push(Arc::new(move || {
        if let Some(used) = ended.upgrade() {
            used.done();
        }
    }));
    let unfinished = request.n;
    let stream = guarded(|| service.generate(request));
    // Before the use may end: whoever unloads the model then is the last to have it.
    drop(service);
    used.called();
    let stream = stream.unwrap_or_else(|message| {
        EventStream::failed(Error::Panicked {
            part: "service",
            message,
        })
    });
    EventStream::new(InUse {
        stream,
        used: Some(used),
        unfinished,
        waited,
    })
}

/// An answer that keeps its model, its timings counted from the call.
struct InUse {
    stream: EventStream,
    used: Option<Arc<Use>>,
    /// Choices that have not finished.
    unfinished: usize,
    waited: Duration,
}

impl Stream for InUse {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut item = Pin::new(&mut this.stream).poll_next(cx);
        let ended = match &mut item {
            Poll::Ready(Some(Ok(Event::Finished(finished)))) => {
                finished.timings = finished.timings.later(this.waited);
                this.unfinished = this.unfinished.saturating_sub(1);
                this.unfinished == 0
            }
            Poll::Ready(Some(Err(_)) | None) => true,
            _ => false,
        };
        if ended && let Some(used) = this.used.take() {
            used.done();
        }
        item
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // First the model is told, then it may go.
        let stream = std::mem::replace(&mut self.stream, EventStream::ready([]));
        let _ = guarded(|| drop(stream));
        drop(self.used.take());
    }
}

#[cfg(all(test, loom))]
#[path = "tests/interleavings.rs"]
mod interleavings;
