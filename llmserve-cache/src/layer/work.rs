//! What a flight drives: lookups that take time, and then, if it must be, the run.
//!
//! ```text
//!  looking ── hit ──► found
//!     │
//!     └─ miss ─► asking ── near ─► fetching ── hit ──► found
//!                  │  ▲               │
//!                  │  └─── gone ──────┘ (or to be verified)
//!                  └─ nothing near ─► running ─► events, end
//! ```

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::error::guarded;
use llmserve_core::{Error, Event, EventStream, Request, Time};

use super::Shared;
use super::semantic::{Near, Question, Reply, key_of};
use crate::answer::Answer;
use crate::epoch::Stamp;
use crate::flight::{Progress, Work, panicked};
use crate::key::Key;
use crate::store::{LookingUp, Lookup};
use crate::trace::{Found, Source};

/// Questions near this one that are tried, where the answer of one after the other is gone.
const MOST_GONE: usize = 4;

/// One starter's request on its way to an answer.
pub(crate) struct Run {
    shared: Arc<Shared>,
    called: Time,
    stamp: Stamp,
    /// Until it is given to the inner service.
    request: Option<Box<Request>>,
    asked: Arc<Asked>,
    gone: usize,
    stage: Stage,
}

/// What is known of a run's question when it lands.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) question: Option<Arc<Question>>,
    /// A hit that the model was to check.
    checked: OnceLock<(Near, Answer)>,
}

impl Asked {
    pub(super) fn new(question: Option<Arc<Question>>) -> Self {
        Self {
            question,
            checked: OnceLock::new(),
        }
    }

    /// The model has answered.
    pub(super) fn landed(&self, shared: &Shared, key: &Key, fresh: &Answer) {
        let (Some(level), Some(question)) = (&shared.semantic, &self.question) else {
            return;
        };
        if let Some((near, cached)) = self.checked.get() {
            level.verdict(near, cached, fresh);
        }
        level.learn(question, key);
    }
}

enum Stage {
    Looking(Arc<Key>, LookingUp),
    Asking(Reply),
    Fetching(Near, Arc<Key>, LookingUp),
    Running {
        inner: EventStream,
        /// How long after the call of the layer the inner service was called.
        behind: Duration,
    },
    Known(Found),
    Failed(Option<Error>),
}

impl Run {
    /// No run at all: it landed just now.
    pub(super) fn known(shared: &Arc<Shared>, stamp: Stamp, found: Found) -> Self {
        Self {
            shared: shared.clone(),
            called: Time::ZERO,
            stamp,
            request: None,
            asked: Arc::default(),
            gone: 0,
            stage: Stage::Known(found),
        }
    }

    /// A run for `request`: at once, `behind` after the call of the layer, or if `lookup` and the
    /// question come to nothing.
    pub(super) fn new(
        shared: &Arc<Shared>,
        called: Time,
        stamp: Stamp,
        request: Request,
        asked: Arc<Asked>,
        lookup: Option<(Arc<Key>, LookingUp)>,
        behind: Duration,
    ) -> Self {
        let mut run = Self {
            shared: shared.clone(),
            called,
            stamp,
            request: Some(Box::new(request)),
            asked,
            gone: 0,
            stage: Stage::Failed(None),
        };
        match lookup {
            Some((key, lookup)) => run.stage = Stage::Looking(key, lookup),
            None if run.asked.question.is_some() => run.ask(),
            None => run.start(behind),
        }
        run
    }

    /// Looks for a question that means the same.
    fn ask(&mut self) {
        let level = self.shared.semantic.as_ref();
        let question = self.asked.question.as_ref();
        let asked = level.zip(question).filter(|_| self.gone < MOST_GONE);
        match asked.and_then(|(level, question)| level.ask(question)) {
            Some(reply) => self.stage = Stage::Asking(reply),
            None => self.give_up_asking(),
        }
    }

    fn give_up_asking(&mut self) {
        if self.asked.question.is_some() {
            self.shared.counters.semantic_miss();
        }
        let behind = self.shared.clock.now().saturating_sub(self.called);
        self.start(behind);
    }

    /// Calls the inner service.
    fn start(&mut self, behind: Duration) {
        let Some(mut request) = self.request.take() else {
            return;
        };
        request.deadline = request.deadline.map(|left| left.saturating_sub(behind));
        let inner = &self.shared.inner;
        self.stage = match guarded(|| inner.generate(*request)) {
            Ok(inner) => Stage::Running { inner, behind },
            Err(message) => Stage::Failed(Some(panicked(message))),
        };
    }

    /// Something near has an answer, or had one.
    fn fetch(&mut self, near: Near) -> Option<Found> {
        let request = self.request.as_deref();
        let key = request.and_then(|it| key_of(&self.shared.namespace, it, &near.text));
        let Some(key) = key.map(Arc::new) else {
            self.give_up_asking();
            return None;
        };
        match self.shared.guarded(|store| store.get(&key)) {
            Some(Lookup::Pending(lookup)) => {
                self.stage = Stage::Fetching(near, key, lookup);
                None
            }
            Some(Lookup::Ready(found)) => {
                let found = self.shared.fresh(&key, found, self.stamp);
                self.fetched(near, found, true)
            }
            None => self.fetched(near, None, false),
        }
    }

    /// `known`: the store has said so, and was not merely out of reach.
    fn fetched(&mut self, near: Near, found: Option<Found>, known: bool) -> Option<Found> {
        let Some(Found { answer, source }) = found else {
            match &self.shared.semantic {
                // A dead neighbour must not stand before a living one.
                Some(level) if known => {
                    level.forget(&near);
                    self.gone += 1;
                    self.ask();
                }
                // A store that takes time says none too where it is out of reach for a moment, and
                // that must not empty the index.
                _ => self.give_up_asking(),
            }
            return None;
        };
        if near.verify {
            let _ = self.asked.checked.set((near, answer));
            self.give_up_asking();
            return None;
        }
        let similarity = near.similarity;
        let age = match source {
            Source::Exact { age } => age,
            _ => Duration::ZERO,
        };
        let source = Source::Semantic { similarity, age };
        Some(Found { answer, source })
    }
}

impl Work for Run {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        loop {
            match &mut self.stage {
                Stage::Looking(key, lookup) | Stage::Fetching(_, key, lookup) => {
                    let found = guarded(|| lookup.as_mut().poll(cx));
                    let found = match found {
                        Ok(Poll::Pending) => return Poll::Pending,
                        Ok(Poll::Ready(found)) => found,
                        Err(_) => {
                            self.shared.counters.store_failure();
                            None
                        }
                    };
                    let there = found.is_some();
                    let found = self.shared.fresh(key, found, self.stamp);
                    let found = match std::mem::replace(&mut self.stage, Stage::Failed(None)) {
                        Stage::Looking(_, lookup) => {
                            discard(&self.shared, lookup);
                            if found.is_none() {
                                self.shared.counters.exact_miss();
                                match self.asked.question {
                                    Some(_) => self.ask(),
                                    None => self.give_up_asking(),
                                }
                            }
                            found
                        }
                        Stage::Fetching(near, _, lookup) => {
                            discard(&self.shared, lookup);
                            self.fetched(near, found, there)
                        }
                        _ => None,
                    };
                    if let Some(found) = found {
                        return Poll::Ready(Progress::Found(found));
                    }
                }
                Stage::Asking(reply) => {
                    let Poll::Ready(near) = Pin::new(reply).poll(cx) else {
                        return Poll::Pending;
                    };
                    match near {
                        Some(near) => {
                            self.stage = Stage::Failed(None);
                            if let Some(found) = self.fetch(near) {
                                return Poll::Ready(Progress::Found(found));
                            }
                        }
                        None => self.give_up_asking(),
                    }
                }
                Stage::Running { inner, behind } => {
                    let next = match Pin::new(inner).poll_next(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(next) => next,
                    };
                    return Poll::Ready(match next {
                        Some(Ok(mut event)) => {
                            if let Event::Finished(finished) = &mut event {
                                finished.timings = finished.timings.later(*behind);
                            }
                            Progress::Event(event)
                        }
                        Some(Err(error)) => Progress::Failed(error),
                        None => Progress::Ended,
                    });
                }
                Stage::Known(found) => return Poll::Ready(Progress::Found(found.clone())),
                Stage::Failed(error) => {
                    let error = error.take();
                    return Poll::Ready(error.map_or(Progress::Ended, Progress::Failed));
                }
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed(None));
        if let Stage::Looking(_, lookup) | Stage::Fetching(_, _, lookup) = stage {
            discard(&self.shared, lookup);
        }
    }
}

/// Drops a lookup, which runs the store's code too.
fn discard(shared: &Shared, lookup: LookingUp) {
    if guarded(|| drop(lookup)).is_err() {
        shared.counters.store_failure();
    }
}
