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
use llmserve_core::{Error, Event, FinishReason, Request, Time, Timings};

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
    /// The numbers of its tags.
    tags: Box<[u64]>,
    called: Time,
    trace: Trace,
    id: Option<String>,
    /// When the first event and the first token were passed on, since the call.
    started: Option<Duration>,
    first_token: Option<Duration>,
    state: State,
}

enum State {
    Replaying {
        answer: Answer,
        cursor: Cursor,
        timings: Timings,
        /// As of [`Listening`].
        owed: Vec<Event>,
    },
    Listening(Listening),
    Failed(Error),
    Ended,
}

struct Listening {
    seat: Seat<Run>,
    /// To start over with; none for a starter.
    request: Option<Box<Request>>,
    /// Events of an earlier run that this one must repeat, choice by choice, before anything new
    /// is passed on.
    owed: Vec<Event>,
}

impl Cached {
    pub(crate) fn start(
        shared: Arc<Shared>,
        key: Arc<Key>,
        tags: Box<[u64]>,
        request: Request,
        called: Time,
        trace: Trace,
    ) -> Self {
        let mut this = Self {
            shared,
            key,
            tags,
            called,
            trace,
            id: request.id.clone(),
            started: None,
            first_token: None,
            state: State::Ended,
        };
        let stamp = this.shared.stamp(&request, &this.tags);
        match this.shared.look(&this.key, stamp) {
            Ok(Some(found)) => this.replay(found, Vec::new()),
            Ok(None) => this.board(request, stamp, None, None),
            Err(lookup) => this.board(request, stamp, Some(lookup), None),
        }
        this
    }

    /// Tells an answer that is there, but for what was passed on already.
    fn replay(&mut self, found: Found, owed: Vec<Event>) {
        let shared = &self.shared;
        if self.trace.source().is_none() {
            shared.tell(&self.trace, &self.id, found.source);
        }
        shared.counters.saved(found.answer.cost());
        let after = shared.clock.now().saturating_sub(self.called);
        self.state = State::Replaying {
            answer: found.answer,
            cursor: Cursor::default(),
            owed,
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
            repeats: request.sampling.is_greedy() || request.sampling.seed.is_some(),
        };
        let asked = match &shared.semantic {
            // What an earlier run has said must be repeated, not something that means the same.
            Some(level) if heard.is_none() => {
                let tags = self.tags.iter().fold(0, |all, tag| all ^ tag);
                level.question(&shared.namespace, &request, tags)
            }
            _ => None,
        };
        let asked = Arc::new(Asked::new(asked));
        let recorder = Recorder::new(shared.policy.clone(), request.n, shared.room(&self.key));
        let start = || {
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
            shared.flights.board(&self.key, terms, start)
        } else {
            Boarded::Started(start())
        };
        let (seat, request) = match boarded {
            Boarded::Joined(seat) => (seat, Some(Box::new(request))),
            Boarded::Started(seat) => {
                // A run that has landed since the store was asked has left its answer there. Where
                // the store takes time, whoever listens waits for the starter's lookup.
                let known = match &lookup {
                    None if shared.single_flight => shared.look_again(&self.key, stamp),
                    _ => None,
                };
                if let Some(found) = known {
                    seat.launch(Run::known(shared, stamp, found.clone()));
                    return self.replay(found, heard.unwrap_or_default());
                }
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
                let lookup = lookup.map(|lookup| (self.key.clone(), lookup));
                let run = Run::new(shared, called, stamp, request, asked, lookup, behind);
                seat.launch(run);
                (seat, None)
            }
        };
        self.state = State::Listening(Listening {
            seat,
            request,
            owed: heard.unwrap_or_default(),
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
            self.shared.tell(&self.trace, &self.id, source);
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
                    owed,
                } => {
                    let Some(mut event) = answer.read(cursor) else {
                        // An answer shorter than what was said of it is not that answer.
                        this.state = match owed.is_empty() {
                            true => State::Ended,
                            false => State::Failed(not_repeated()),
                        };
                        continue;
                    };
                    match repeats(owed, &event) {
                        Repeat::Said => continue,
                        Repeat::New => {}
                        Repeat::Other => {
                            this.state = State::Failed(not_repeated());
                            continue;
                        }
                    }
                    if let Event::Finished(finished) = &mut event {
                        finished.timings = *timings;
                    }
                    return Poll::Ready(Some(Ok(event)));
                }
                State::Listening(listening) => listening,
                State::Failed(_) | State::Ended => {
                    return Poll::Ready(match std::mem::replace(&mut this.state, State::Ended) {
                        State::Failed(error) => Some(Err(error)),
                        _ => None,
                    });
                }
            };
            let Poll::Ready(turn) = listening.seat.poll(cx) else {
                return Poll::Pending;
            };
            let starter = listening.seat.is_starter();
            match turn {
                Turn::Event(mut event) => {
                    if !listening.owed.is_empty() {
                        if let Event::Finished(finished) = &mut event
                            && finished.reason == FinishReason::Deadline
                        {
                            // Its own deadline, before the run had repeated what it was to. What
                            // the run held back may have been passed on already.
                            finished.text.clear();
                        } else {
                            match repeats(&mut listening.owed, &event) {
                                Repeat::Said => continue,
                                Repeat::New => {}
                                Repeat::Other => {
                                    this.state = State::Failed(not_repeated());
                                    continue;
                                }
                            }
                        }
                    }
                    let event = if starter && this.started.is_none() {
                        event
                    } else {
                        this.pass(event)
                    };
                    this.tell(starter);
                    return Poll::Ready(Some(Ok(event)));
                }
                Turn::Found(found) => {
                    let owed = std::mem::take(&mut listening.owed);
                    match (listening.request.take(), found.source) {
                        // What means the same does not go on where the other left off.
                        (Some(request), Source::Semantic { .. }) if !owed.is_empty() => {
                            let stamp = this.shared.stamp(&request, &this.tags);
                            this.board(*request, stamp, None, Some(owed));
                        }
                        _ => this.replay(found, owed),
                    }
                }
                Turn::Failed(error) => {
                    this.tell(starter);
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
                Turn::Ended => {
                    if !starter {
                        this.shared.counters.saved(listening.seat.cost());
                    }
                    this.tell(starter);
                    this.state = State::Ended;
                    return Poll::Ready(None);
                }
                Turn::Leave => {
                    let mut heard = listening.seat.heard();
                    heard.append(&mut listening.owed);
                    let request = listening.request.take();
                    this.state = State::Ended;
                    if let Some(request) = request {
                        let stamp = this.shared.stamp(&request, &this.tags);
                        this.board(*request, stamp, None, Some(heard));
                    }
                }
            }
        }
    }
}

impl Cached {
    /// An event as this listener gets it: the run's own timings are its starter's.
    fn pass(&mut self, mut event: Event) -> Event {
        let now = self.shared.clock.now().saturating_sub(self.called);
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

#[derive(PartialEq)]
enum Repeat {
    /// It was said before, and is struck off.
    Said,
    /// All that its choice owed has been said.
    New,
    /// It is not what was said before.
    Other,
}

/// Whether `event` is what its choice owes next. Choices may take turns in another order.
fn repeats(owed: &mut Vec<Event>, event: &Event) -> Repeat {
    let of = |event: &Event| choice(event);
    match owed.iter().position(|owed| of(owed) == of(event)) {
        None => Repeat::New,
        Some(place) if same(&owed[place], event) => {
            owed.remove(place);
            Repeat::Said
        }
        Some(_) => Repeat::Other,
    }
}

fn choice(event: &Event) -> Option<usize> {
    match event {
        Event::Token(token) => Some(token.index),
        Event::Text(text) => Some(text.index),
        Event::Finished(finished) => Some(finished.index),
        _ => None,
    }
}

/// Whether a second run said what the first had, as far as a listener can tell.
fn same(one: &Event, other: &Event) -> bool {
    match (one, other) {
        (Event::Started(one), Event::Started(other)) => one.prompt_ids == other.prompt_ids,
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
