//! One request's way through the layer.
//!
//! ```text
//!  looking ──── hit ───► replaying ───► ended
//!     │                                   ▲
//!     └─ miss ─► answering, recording ────┘ at its own end: store
//! ```
//!
//! A store that answers at once, as memory does, is asked in `generate()`, so that a miss reaches
//! the inner service without waiting for the stream to be read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{Error, Event, EventStream, Request, Time, Timings};

use crate::answer::Answer;
use crate::key::Key;
use crate::layer::Shared;
use crate::recorder::Recorder;
use crate::store::Lookup;

/// The events of one request that takes part in caching.
pub(crate) struct Cached {
    shared: Arc<Shared>,
    called: Time,
    state: State,
}

type LookingUp = Pin<Box<dyn Future<Output = Option<Arc<Answer>>> + Send>>;

enum State {
    Looking {
        lookup: LookingUp,
        key: Arc<Key>,
        request: Box<Request>,
    },
    Answering {
        inner: EventStream,
        key: Arc<Key>,
        /// None once the answer is not to be kept.
        recorder: Option<Recorder>,
        /// How long after the call of the layer the inner service was called.
        behind: Duration,
    },
    Replaying {
        answer: Arc<Answer>,
        next: usize,
        timings: Timings,
    },
    Ended,
}

impl Cached {
    pub(crate) fn start(
        shared: Arc<Shared>,
        key: Arc<Key>,
        request: Request,
        called: Time,
    ) -> Self {
        let state = match shared.get(&key) {
            Lookup::Ready(Some(answer)) => replay(&shared, answer, called),
            Lookup::Ready(None) => answer(&shared, key, request, Duration::ZERO),
            Lookup::Pending(lookup) => State::Looking {
                lookup,
                key,
                request: Box::new(request),
            },
        };
        Self {
            shared,
            called,
            state,
        }
    }
}

fn replay(shared: &Shared, answer: Arc<Answer>, called: Time) -> State {
    shared.counters.hits.one();
    let found = shared.clock.now().saturating_sub(called);
    State::Replaying {
        answer,
        next: 0,
        timings: Timings {
            queue: found,
            time_to_first_token: found,
            latency: found,
        },
    }
}

fn answer(shared: &Shared, key: Arc<Key>, mut request: Request, behind: Duration) -> State {
    shared.counters.misses.one();
    let recorder = Recorder::new(request.n, shared.room(&key));
    request.deadline = request.deadline.map(|left| left.saturating_sub(behind));
    State::Answering {
        inner: shared.inner.generate(request),
        key,
        recorder: Some(recorder),
        behind,
    }
}

impl Stream for Cached {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let State::Looking { lookup, .. } = &mut this.state {
            let found = catch_unwind(AssertUnwindSafe(|| lookup.as_mut().poll(cx)));
            let found = match found {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(found)) => found,
                Err(_) => {
                    this.shared.counters.store_failures.one();
                    None
                }
            };
            this.looked_up(found);
        }
        match &mut this.state {
            State::Answering {
                inner,
                key,
                recorder,
                behind,
            } => {
                // Out of the state while the inner stream is polled: should that panic, the
                // recording has a hole, and is gone.
                let recording = recorder.take();
                match Pin::new(inner).poll_next(cx) {
                    Poll::Pending => {
                        *recorder = recording;
                        Poll::Pending
                    }
                    Poll::Ready(Some(Ok(mut event))) => {
                        delay(&mut event, *behind);
                        *recorder = recording.and_then(|recording| recording.note(&event));
                        Poll::Ready(Some(Ok(event)))
                    }
                    Poll::Ready(Some(Err(error))) => {
                        this.state = State::Ended;
                        Poll::Ready(Some(Err(error)))
                    }
                    Poll::Ready(None) => {
                        let key = key.clone();
                        this.state = State::Ended;
                        if let Some(answer) = recording.and_then(Recorder::complete) {
                            this.shared.put(key, answer);
                        }
                        Poll::Ready(None)
                    }
                }
            }
            State::Replaying {
                answer,
                next,
                timings,
            } => match answer.events().get(*next) {
                Some(event) => {
                    *next += 1;
                    let mut event = event.clone();
                    if let Event::Finished(finished) = &mut event {
                        finished.timings = *timings;
                    }
                    Poll::Ready(Some(Ok(event)))
                }
                None => {
                    this.state = State::Ended;
                    Poll::Ready(None)
                }
            },
            State::Looking { .. } | State::Ended => Poll::Ready(None),
        }
    }
}

impl Cached {
    /// The store has answered after a while.
    fn looked_up(&mut self, found: Option<Arc<Answer>>) {
        let State::Looking {
            lookup,
            key,
            request,
        } = std::mem::replace(&mut self.state, State::Ended)
        else {
            return;
        };
        discard(&self.shared, lookup);
        self.state = match found {
            Some(answer) => replay(&self.shared, answer, self.called),
            None => {
                let behind = self.shared.clock.now().saturating_sub(self.called);
                answer(&self.shared, key, *request, behind)
            }
        };
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        if let State::Looking { lookup, .. } = std::mem::replace(&mut self.state, State::Ended) {
            discard(&self.shared, lookup);
        }
    }
}

/// Drops a lookup, which runs the store's code too.
fn discard(shared: &Shared, lookup: LookingUp) {
    if catch_unwind(AssertUnwindSafe(|| drop(lookup))).is_err() {
        shared.counters.store_failures.one();
    }
}

/// Counts an event's timings from the call of the layer.
fn delay(event: &mut Event, behind: Duration) {
    if let Event::Finished(finished) = event {
        let timings = &mut finished.timings;
        for time in [
            &mut timings.queue,
            &mut timings.time_to_first_token,
            &mut timings.latency,
        ] {
            *time = time.saturating_add(behind);
        }
    }
}
