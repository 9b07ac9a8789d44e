//! The queue between the engine thread and one reader.
//!
//! Unbounded in type, bounded in fact: a request emits at most its own tokens. So the engine
//! never waits for a reader, and a reader that never reads costs its own answer's memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::{Command, Shared};
use crate::error::Error;
use crate::event::Event;
use crate::sync::{AtomicBool, Mutex, Ordering};

struct Queue {
    state: Mutex<QueueState>,
    cancelled: AtomicBool,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<Result<Event, Error>>,
    waker: Option<Waker>,
    closed: bool,
}

impl Queue {
    fn push(&self, events: impl IntoIterator<Item = Result<Event, Error>>, close: bool) {
        let waker = {
            let mut state = self.state.lock();
            state.events.extend(events);
            state.closed |= close;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Both ends of the queue of request `key`.
pub(super) fn pair(key: u64, shared: Arc<Shared>) -> (Sink, Source) {
    let queue = Arc::new(Queue {
        state: Mutex::default(),
        cancelled: AtomicBool::new(false),
    });
    let sink = Sink {
        queue: queue.clone(),
        shared: shared.clone(),
        open: true,
    };
    (sink, Source { key, queue, shared })
}

/// The engine's end. Dropped without a word, it ends the stream with the engine's own end.
pub(super) struct Sink {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    open: bool,
}

impl Sink {
    /// Hands over events, emptying `events`.
    pub(super) fn send_all(&self, events: &mut Vec<Event>) {
        if !events.is_empty() {
            self.queue.push(events.drain(..).map(Ok), false);
        }
    }

    /// Ends the stream.
    pub(super) fn close(mut self) {
        self.open = false;
        self.queue.push([], true);
    }

    /// Ends the stream with an error.
    pub(super) fn fail(mut self, error: Error) {
        self.open = false;
        self.queue.push([Err(error)], true);
    }

    /// Whether the reader is gone.
    pub(super) fn is_cancelled(&self) -> bool {
        self.queue.cancelled.load(Ordering::Acquire)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.open {
            self.queue.push([Err(self.shared.end_error())], true);
        }
    }
}

/// The reader's end.
pub(super) struct Source {
    key: u64,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

impl Stream for Source {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.queue.state.lock();
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if !self.queue.state.lock().closed {
            // The flag reaches a request still in the intake, the command one in the engine.
            self.queue.cancelled.store(true, Ordering::Release);
            let _ = self.shared.commands.send(Command::Cancel(self.key));
        }
    }
}
