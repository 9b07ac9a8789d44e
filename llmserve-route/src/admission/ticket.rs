//! A request that waits for its place, and the stream that its reader holds.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{Error, Event, EventStream, Request, Time};
use parking_lot::Mutex;

use super::state::Shared;
use crate::timer::Alarm;

/// What reader and queue share of a request.
pub(super) struct Ticket {
    pub(super) class: usize,
    pub(super) tokens: u64,
    pub(super) arrival: Time,
    /// When it is given up, and the time that there was.
    pub(super) until: Option<(Time, Duration)>,
    pub(super) stage: Mutex<Stage>,
}

/// How far a request has come.
pub(super) enum Stage {
    /// In the queue. Its reader's waker, once it has been polled.
    Waiting(Box<Request>, Option<Waker>),
    /// It has a place, and `generate()` is being called.
    Starting(Option<Waker>),
    /// Answered; its reader has not come for it yet.
    Started(EventStream),
    /// With its reader, given up, or dropped.
    Gone,
}

impl Ticket {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.stage.lock(), Stage::Waiting(..))
    }
}

/// A place, given back once: at the answer's end, or when the answerer says that it is done.
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) class: usize,
    pub(super) held: Mutex<bool>,
}

impl Place {
    pub(super) fn give_back(&self) {
        if std::mem::replace(&mut *self.held.lock(), false) {
            self.shared.ended(self.class);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The events of a request, when it has its turn.
pub(super) struct Admitted {
    shared: Arc<Shared>,
    ticket: Arc<Ticket>,
    /// The answer, once it has begun.
    answer: Option<EventStream>,
    alarm: Option<Alarm>,
}

impl Admitted {
    pub(super) fn new(shared: Arc<Shared>, ticket: Arc<Ticket>) -> Self {
        Self {
            shared,
            ticket,
            answer: None,
            alarm: None,
        }
    }
}

impl Stream for Admitted {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(answer) = &mut this.answer {
            return Pin::new(answer).poll_next(cx);
        }
        let mut stage = this.ticket.stage.lock();
        match &mut *stage {
            Stage::Waiting(_, waker) => {
                *waker = Some(cx.waker().clone());
                let Some((until, limit)) = this.ticket.until else {
                    return Poll::Pending;
                };
                if this.shared.timer.now() >= until {
                    *stage = Stage::Gone;
                    drop(stage);
                    this.shared.gave_up(&this.ticket);
                    return Poll::Ready(Some(Err(Error::TimedOut {
                        what: "free place",
                        limit,
                    })));
                }
                // It may wake at once, and whoever is woken may come here.
                drop(stage);
                this.alarm = Some(this.shared.timer.wake_at(until, cx.waker().clone()));
                Poll::Pending
            }
            Stage::Starting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Stage::Started(_) => {
                let Stage::Started(mut answer) = std::mem::replace(&mut *stage, Stage::Gone) else {
                    return Poll::Ready(None);
                };
                drop(stage);
                this.alarm = None;
                let item = Pin::new(&mut answer).poll_next(cx);
                this.answer = Some(answer);
                item
            }
            Stage::Gone => Poll::Ready(None),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut *self.ticket.stage.lock(), Stage::Gone);
        if let Stage::Waiting(..) = stage {
            self.shared.gave_up(&self.ticket);
        }
        // An answer nobody came for is dropped here, outside all locks: that cancels it.
    }
}

/// An answer with its place, its timings counted from the call.
pub(super) struct Placed {
    pub(super) stream: EventStream,
    pub(super) place: Option<Arc<Place>>,
    /// Choices that have not finished.
    pub(super) unfinished: usize,
    /// How long it waited for its place.
    pub(super) waited: Duration,
}

impl Stream for Placed {
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
        if ended && let Some(place) = this.place.take() {
            place.give_back();
        }
        item
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // First the answerer is told, then the place is free.
        let stream = std::mem::replace(&mut self.stream, EventStream::ready([]));
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(stream)));
        if let Some(place) = self.place.take() {
            place.give_back();
        }
    }
}
