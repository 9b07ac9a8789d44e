//! A request that waits for its model, and the streams that readers hold.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::error::panic_message;
use llmserve_core::{Error, Event, EventStream, Generate, Request, Time};
use parking_lot::Mutex;

use super::keeper::Shared;
use super::state::Name;

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
        let mut stage = this.ticket.stage.lock();
        match &mut *stage {
            Stage::Waiting(_, waker) | Stage::Starting(waker) => {
                let old = waker.replace(cx.waker().clone());
                // A waker may be a host's own code, so it goes outside of the lock.
                drop(stage);
                drop(old);
                Poll::Pending
            }
            Stage::Started(_) => {
                let Stage::Started(answer) = std::mem::replace(&mut *stage, Stage::Gone) else {
                    return Poll::Ready(None);
                };
                drop(stage);
                Pin::new(this.answer.insert(answer)).poll_next(cx)
            }
            Stage::Gone => Poll::Ready(None),
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut *self.ticket.stage.lock(), Stage::Gone);
        if let Stage::Waiting(..) = stage {
            self.shared.gave_up(&self.name, self.id);
        }
        // An answer nobody came for is dropped here, outside all locks: that cancels it.
    }
}

/// One use of a model, which stays while it lasts. Ends once.
pub(super) struct Use {
    shared: Arc<Shared>,
    name: Name,
    lasts: Mutex<Lasts>,
}

/// How long a use lasts.
#[derive(Clone, Copy, PartialEq)]
enum Lasts {
    /// The service is being called, so whoever calls it has a hold of it.
    Calling {
        done: bool,
    },
    /// Until the answer is complete.
    Answering,
    Ended,
}

impl Use {
    pub(super) fn new(shared: Arc<Shared>, name: Name) -> Arc<Self> {
        Arc::new(Self {
            shared,
            name,
            lasts: Mutex::new(Lasts::Calling { done: false }),
        })
    }

    /// The answer is complete, perhaps before the call has returned.
    fn done(&self) {
        let mut lasts = self.lasts.lock();
        let ends = *lasts == Lasts::Answering;
        *lasts = match *lasts {
            Lasts::Calling { .. } => Lasts::Calling { done: true },
            _ => Lasts::Ended,
        };
        drop(lasts);
        if ends {
            self.shared.ended(&self.name);
        }
    }

    /// Nobody has a hold of the service for this use any more.
    fn called(&self) {
        let mut lasts = self.lasts.lock();
        let done = *lasts == Lasts::Calling { done: true };
        *lasts = Lasts::Answering;
        drop(lasts);
        if done {
            self.done();
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if *self.lasts.lock() != Lasts::Ended {
            self.shared.ended(&self.name);
        }
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
    let stream = catch_unwind(AssertUnwindSafe(|| service.generate(request)));
    // Before the use may end: whoever unloads the model then is the last to have it.
    drop(service);
    used.called();
    let stream = stream.unwrap_or_else(|panic| {
        EventStream::failed(Error::Panicked {
            part: "service",
            message: panic_message(&*panic),
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
        let _ = catch_unwind(AssertUnwindSafe(|| drop(stream)));
        drop(self.used.take());
    }
}
