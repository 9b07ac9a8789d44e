//! One request's way through the layer.
//!
//! ```text
//!          ┌── hit ─────────────────────────────► replaying ──► ended
//!  start ──┤                                          ▲           ▲
//!          └── board ──► listening to a run ── found ─┘           │
//!                 ▲            │    └──────────── its own end ────┘
//!                 └── leave ───┘
//! ```
//!
//! A store that answers at once, as memory does, is asked in `generate()`, so that a hit needs no
//! seat and a miss reaches the inner service without waiting for the stream to be read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{Error, Event, Request, Time, Timings};

use super::work::{Asked, Run};
use super::{LookingUp, Shared};
use crate::answer::{Answer, Cursor};
use crate::epoch::Stamp;
use crate::flight::{Boarded, Flight, Seat, Terms, Turn};
use crate::key::Key;
use crate::recorder::Recorder;
use crate::trace::{Found, Source, Trace};

/// The events of one request that takes part in caching.
pub(crate) struct Cached {
    shared: Arc<Shared>,
    key: Arc<Key>,
    called: Time,
    trace: Trace,
    id: Option<String>,
    state: State,
}

enum State {
    Replaying {
        answer: Answer,
        cursor: Cursor,
        timings: Timings,
    },
    Listening(Listening),
    Ended,
}

struct Listening {
    seat: Seat<Run>,
    /// To start over with; none for a starter.
    request: Option<Box<Request>>,
    /// Events of an earlier run that this one must repeat before anything new is passed on.
    owed: std::vec::IntoIter<Event>,
    /// When the first event and the first token were passed on, since the call.
    started: Option<Duration>,
    first_token: Option<Duration>,
}

impl Cached {
    pub(crate) fn start(
        shared: Arc<Shared>,
        key: Arc<Key>,
        request: Request,
        called: Time,
        trace: Trace,
    ) -> Self {
        let mut this = Self {
            shared,
            key,
            called,
            trace,
            id: request.id.clone(),
            state: State::Ended,
        };
        let stamp = this.shared.stamp(&request);
        match this.shared.look(&this.key, stamp) {
            Ok(Some(found)) => this.replay(found),
            Ok(None) => this.board(request, stamp, None, None),
            Err(lookup) => this.board(request, stamp, Some(lookup), None),
        }
        this
    }

    fn replay(&mut self, found: Found) {
        let shared = &self.shared;
        shared.tell(&self.trace, &self.id, found.source, Some(&found.answer));
        let after = shared.clock.now().saturating_sub(self.called);
        self.state = State::Replaying {
            answer: found.answer,
            cursor: Cursor::default(),
            timings: Timings {
                queue: after,
                time_to_first_token: after,
                latency: after,
            },
        };
    }

    /// Finds a run to listen to, or starts one. `heard` is what a run has said that was left.
    fn board(
        &mut self,
        request: Request,
        stamp: Stamp,
        lookup: Option<LookingUp>,
        heard: Option<Vec<Event>>,
    ) {
        let shared = &self.shared;
        let terms = Terms {
            stamp,
            ends: request
                .deadline
                .map(|left| self.called.saturating_add(left)),
            priority: request.priority,
        };
        let asked = match &shared.semantic {
            // What an earlier run has said must be repeated, not something that means the same.
            Some(level) if heard.is_none() => level.question(&shared.namespace, &request),
            _ => None,
        };
        let asked = Arc::new(Asked::new(asked));
        let start = || {
            let recorder = Recorder::new(shared.policy.clone(), request.n, shared.room(&self.key));
            let (landed, key) = (shared.clone(), self.key.clone());
            let asked = asked.clone();
            Flight::prepare(
                terms,
                recorder,
                Box::new(move |answer| {
                    if let Some(answer) = answer {
                        landed.put(key.clone(), answer.clone(), stamp);
                        asked.landed(&landed, &key, &answer);
                    }
                    landed.flights.sweep(&key);
                }),
            )
        };
        let boarded = if shared.single_flight {
            // Where the store takes time, whoever listens waits for the starter's lookup.
            let known = || match &lookup {
                None => shared.look(&self.key, stamp).ok().flatten(),
                Some(_) => None,
            };
            shared.flights.board(&self.key, terms, known, start)
        } else {
            Boarded::Started(start())
        };
        let (seat, request) = match boarded {
            Boarded::Known(found) => return self.replay(found),
            Boarded::Joined(seat) => (seat, Some(Box::new(request))),
            Boarded::Started(seat) => {
                if lookup.is_none() {
                    shared.counters.exact_miss();
                    if asked.question.is_none() {
                        self.tell(true);
                    }
                }
                // What `generate()` itself takes is no waiting.
                let behind = match heard {
                    Some(_) => shared.clock.now().saturating_sub(self.called),
                    None => Duration::ZERO,
                };
                let called = self.called;
                let run = Run::new(shared, called, stamp, request, asked, lookup, behind);
                seat.launch(run);
                (seat, None)
            }
        };
        self.state = State::Listening(Listening {
            seat,
            request,
            owed: heard.unwrap_or_default().into_iter(),
            started: None,
            first_token: None,
        });
    }

    /// Where the answer comes from is known with its first event, or its failure.
    fn tell(&self, starter: bool) {
        if self.trace.source().is_none() {
            let source = if starter {
                Source::Model
            } else {
                Source::Joined
            };
            self.shared.tell(&self.trace, &self.id, source, None);
        }
    }
}

impl Stream for Cached {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let listening = match &mut this.state {
                State::Replaying {
                    answer,
                    cursor,
                    timings,
                } => {
                    let mut event = answer.read(cursor);
                    match &mut event {
                        Some(Event::Finished(finished)) => finished.timings = *timings,
                        Some(_) => {}
                        None => this.state = State::Ended,
                    }
                    return Poll::Ready(event.map(Ok));
                }
                State::Listening(listening) => listening,
                State::Ended => return Poll::Ready(None),
            };
            let Poll::Ready(turn) = listening.seat.poll(cx) else {
                return Poll::Pending;
            };
            let starter = listening.seat.is_starter();
            match turn {
                Turn::Event(event) => {
                    if let Some(owed) = listening.owed.next() {
                        if same(&owed, &event) {
                            continue;
                        }
                        this.state = State::Ended;
                        return Poll::Ready(Some(Err(not_repeated())));
                    }
                    let now = this.shared.clock.now().saturating_sub(this.called);
                    let event = listening.pass(event, now);
                    this.tell(starter);
                    return Poll::Ready(Some(Ok(event)));
                }
                Turn::Found(found) => this.replay(found),
                Turn::Failed(error) => {
                    this.tell(starter);
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
                Turn::Ended => {
                    this.tell(starter);
                    this.state = State::Ended;
                    return Poll::Ready(None);
                }
                Turn::Leave => {
                    let heard = listening.seat.heard();
                    let request = listening.request.take();
                    this.state = State::Ended;
                    if let Some(request) = request {
                        let stamp = this.shared.stamp(&request);
                        this.board(*request, stamp, None, Some(heard));
                    }
                }
            }
        }
    }
}

impl Listening {
    /// An event as this listener gets it: the run's own timings are its starter's.
    fn pass(&mut self, mut event: Event, now: Duration) -> Event {
        if self.seat.is_starter() {
            return event;
        }
        let started = *self.started.get_or_insert(now);
        if matches!(event, Event::Token(_) | Event::Text(_)) {
            self.first_token.get_or_insert(now);
        }
        if let Event::Finished(finished) = &mut event {
            finished.timings = Timings {
                queue: started,
                time_to_first_token: self.first_token.unwrap_or(now),
                latency: now,
            };
        }
        event
    }
}

/// Whether a second run said what the first had, as far as a listener can tell.
fn same(one: &Event, other: &Event) -> bool {
    match (one, other) {
        (Event::Finished(one), Event::Finished(other)) => {
            (one.index, &one.reason, &one.text) == (other.index, &other.reason, &other.text)
        }
        _ => one == other,
    }
}

fn not_repeated() -> Error {
    Error::Panicked {
        part: "inner service",
        message: "a run of a deterministic request did not repeat what an earlier one had said \
                  before its deadline"
            .to_owned(),
    }
}
