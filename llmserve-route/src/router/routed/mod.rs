//! A request on its way: the stream that fails over.
//!
//! ```text
//!            ┌───────────── pause ◄─────────────┐ an error about the replica, or silence,
//!            ▼                                  │ and somebody untried is left
//!  waiting for the first event ─────────────────┤
//!            │                                  │
//!            │ first event: from here on it     │ the same; another with the same weights
//!            ▼ is this replica's answer         │ goes on with the tokens there are
//!         passing on ───────────────────────────┘
//!            │
//!            ▼
//!       end or error
//! ```

mod said;
mod wait;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{Error, Event, Request, Time};

use super::attempt::Attempt;
use super::shared::{Refusal, Shared};
use crate::ask::Prepared;
use crate::failover::is_about_replica;
use crate::fleet::Slot;
use said::Said;
use wait::Wait;

/// How much later than its own deadline a request is given up: its replica, which knows the
/// deadline too, has the first word.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);

/// The events of one routed request.
pub(crate) struct Routed {
    shared: Arc<Shared>,
    /// The request, while it may have to be sent once more. Gone as early as possible: a prompt
    /// may be large, and an answer long.
    spare: Option<Box<(Request, Prepared)>>,
    /// Replicas asked so far, the present ones included.
    tried: Vec<Slot>,
    /// Whether a second replica has been asked that has not failed, or looked for in vain.
    hedged: bool,
    stage: Stage,
    called: Time,
    /// When it is given up, and the time that there was for it.
    until: Option<(Time, Duration)>,
    wait: Wait,
}

enum Stage {
    /// Before the first event of all, or of a replica that goes on.
    Waiting {
        attempt: Attempt,
        /// A second replica, asked because the first takes long.
        hedge: Option<Attempt>,
        /// What was answered before; none at first.
        said: Option<Said>,
    },
    /// The next replica is asked at that time. The error is the last one's.
    Pausing {
        until: Time,
        error: Error,
        said: Option<Said>,
    },
    Answering {
        attempt: Attempt,
        /// The last event.
        heard: Time,
        /// None where it could not go on elsewhere.
        said: Option<Said>,
    },
    Ended,
}

impl Routed {
    /// `request`, sent to the first replica.
    ///
    /// # Errors
    /// Nobody may answer, the strategy wants none of those that may, or it panicked.
    pub(crate) fn begin(shared: Arc<Shared>, request: Request) -> Result<Self, Error> {
        let prepared = shared.prepare(&request)?;
        shared.budget.earn();
        let called = shared.timer.now();
        let limits = [
            shared.timeouts.total.map(|limit| (limit, limit)),
            request
                .deadline
                .map(|limit| (limit.saturating_add(DEADLINE_GRACE), limit)),
        ];
        let until = limits.into_iter().flatten().min();
        let mut routed = Self {
            shared,
            spare: Some(Box::new((request, prepared))),
            tried: Vec::new(),
            hedged: false,
            stage: Stage::Ended,
            called,
            until: until.map(|(after, limit)| (called.saturating_add(after), limit)),
            wait: Wait::default(),
        };
        let attempt = routed.dispatch(None).map_err(Refusal::into_error)?;
        routed.stage = Stage::Waiting {
            attempt,
            hedge: None,
            said: None,
        };
        Ok(routed)
    }

    /// Sends the request to the next replica; to one that can go on with what was `said`.
    fn dispatch(&mut self, said: Option<&Said>) -> Result<Attempt, Refusal> {
        let Some(spare) = self.spare.take() else {
            return Err(Refusal::Nobody(Error::NoReplica {
                reason: "every attempt is spent".to_owned(),
                retry_after: None,
            }));
        };
        let (request, prepared) = &*spare;
        let shared = &self.shared;
        let identity = said.map(Said::identity);
        let assigned = match shared.assign(request, prepared, &self.tried, identity) {
            Ok(assigned) => assigned,
            Err(refusal) => {
                self.spare = Some(spare);
                return Err(refusal);
            }
        };
        self.tried.push(assigned.slot());
        let mut sent = request.clone();
        if let Some(said) = said {
            said.go_on(&mut sent);
        }
        let fallback = request.model.as_ref();
        let others = assigned.had_others()
            || fallback.is_some_and(|model| shared.fallbacks.contains_key(model));
        if others && self.tried.len() < shared.max_attempts {
            // It may not be the last to work for the request, so its end is not the request's.
            sent.on_end.clear();
            self.spare = Some(spare);
        }
        let behind = match self.tried.len() {
            1 => Duration::ZERO,
            _ => assigned.began().saturating_sub(self.called),
        };
        Ok(Attempt::dispatch(assigned, sent, behind))
    }

    /// An attempt failed with an error that another replica might not have: a pause and another
    /// attempt, or the end.
    fn retry(&mut self, error: Error, said: Option<Said>, now: Time) -> Step {
        let left = self.spare.is_some() && self.tried.len() < self.shared.max_attempts;
        if !left || !self.shared.budget.spend(now) {
            return Step::Item(Some(Err(error)));
        }
        let part = (self.shared.random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let pause = self.shared.backoff.pause(self.tried.len(), part);
        self.stage = Stage::Pausing {
            until: now.saturating_add(pause),
            error,
            said,
        };
        Step::Again
    }

    /// The event that `attempt` begins to answer with.
    fn begin_answer(
        &mut self,
        attempt: Attempt,
        said: Option<Said>,
        event: Event,
        now: Time,
    ) -> Option<Event> {
        if let Some(hedging) = &self.shared.hedging {
            hedging.answered(now.saturating_sub(attempt.assigned().began()));
        }
        let again = said.is_some();
        let said = said.or_else(|| {
            let request = self.spare.as_deref().map(|(request, _)| request);
            let replays = self.shared.replay && self.tried.len() < self.shared.max_attempts;
            Said::of(request.filter(|_| replays)?, attempt.assigned())
        });
        let said = said.and_then(|said| said.note(&event, now));
        if said.is_none() {
            self.spare = None;
        }
        // The prompt was told before.
        let told = again && matches!(event, Event::Started(_));
        let event = match &said {
            Some(said) => said.timed(event, self.called),
            None => event,
        };
        self.stage = Stage::Answering {
            attempt,
            heard: now,
            said,
        };
        (!told).then_some(event)
    }

    /// When the present stage must be looked at again, whatever the replicas do.
    fn next_look(&self) -> Option<Time> {
        let timeouts = &self.shared.timeouts;
        let after = |from: Time, limit: Option<Duration>| Some(from.saturating_add(limit?));
        let stage = match &self.stage {
            Stage::Waiting { attempt, .. } => {
                let began = attempt.assigned().began();
                let silent = after(began, timeouts.first_token);
                silent.into_iter().chain(self.hedge_at(began)).min()
            }
            Stage::Pausing { until, .. } => Some(*until),
            Stage::Answering { heard, .. } => after(*heard, timeouts.between_tokens),
            Stage::Ended => None,
        };
        let until = self.until.map(|(until, _)| until);
        stage.into_iter().chain(until).min()
    }

    /// When a second replica is asked for an attempt that began at `began`.
    fn hedge_at(&self, began: Time) -> Option<Time> {
        let hedging = self.shared.hedging.as_ref()?;
        let left = self.spare.is_some() && self.tried.len() < self.shared.max_attempts;
        if self.hedged || !left {
            return None;
        }
        Some(began.saturating_add(hedging.after()?))
    }

    /// One step forward: an item, or whether to look again at once.
    fn advance(&mut self, cx: &mut Context<'_>) -> Step {
        let now = self.shared.timer.now();
        let stage = std::mem::replace(&mut self.stage, Stage::Ended);
        match stage {
            Stage::Ended => Step::Item(None),
            Stage::Pausing { until, error, said } => self.resume(until, error, said, now),
            Stage::Waiting {
                attempt,
                hedge,
                said,
            } => self.wait(attempt, hedge, said, now, cx),
            Stage::Answering {
                attempt,
                heard,
                said,
            } => self.answer(attempt, heard, said, now, cx),
        }
    }

    fn resume(&mut self, until: Time, error: Error, said: Option<Said>, now: Time) -> Step {
        if now < until {
            self.stage = Stage::Pausing { until, error, said };
            return Step::Pending;
        }
        match self.dispatch(said.as_ref()) {
            Ok(attempt) => {
                self.stage = Stage::Waiting {
                    attempt,
                    hedge: None,
                    said,
                };
                Step::Again
            }
            Err(Refusal::Nobody(_) | Refusal::Declined(_)) => Step::Item(Some(Err(error))),
            Err(Refusal::Panicked(panicked)) => Step::Item(Some(Err(panicked))),
        }
    }

    fn wait(
        &mut self,
        mut attempt: Attempt,
        mut hedge: Option<Attempt>,
        said: Option<Said>,
        now: Time,
        cx: &mut Context<'_>,
    ) -> Step {
        let failed = match attempt.poll(cx) {
            Poll::Ready(Some(Ok(event))) => {
                drop(hedge);
                return Step::of(self.begin_answer(attempt, said, event, now));
            }
            Poll::Ready(Some(Err(error))) if is_about_replica(&error) => Some(error),
            Poll::Ready(end) => return Step::Item(end),
            Poll::Pending => None,
        };
        if let Some(second) = &mut hedge {
            match second.poll(cx) {
                Poll::Ready(Some(Ok(event))) => {
                    let Some(second) = hedge.take() else {
                        return Step::Again;
                    };
                    drop(attempt);
                    return Step::of(self.begin_answer(second, said, event, now));
                }
                // Its failure has been counted, and the next is asked in its place. What is wrong
                // with the request, if anything is, the first will say.
                Poll::Ready(end) => {
                    hedge = None;
                    self.hedged = !matches!(&end, Some(Err(error)) if is_about_replica(error));
                }
                Poll::Pending => {}
            }
        }
        let silent = self
            .shared
            .timeouts
            .first_token
            .filter(|limit| now.saturating_sub(attempt.assigned().began()) >= *limit);
        let failed = failed.or_else(|| {
            let error = Error::TimedOut {
                what: "first token",
                limit: silent?,
            };
            attempt.fail(&error);
            Some(error)
        });
        if let Some(error) = failed {
            // Given back before the next is picked, so that the strategy sees it.
            drop(attempt);
            let Some(attempt) = hedge else {
                return self.retry(error, said, now);
            };
            self.stage = Stage::Waiting {
                attempt,
                hedge: None,
                said,
            };
            return Step::Again;
        }
        let began = attempt.assigned().began();
        if self.hedge_at(began).is_some_and(|at| now >= at) {
            // Once a request, whether or not there is somebody to ask, but for those that fail.
            self.hedged = true;
            if self.shared.budget.spend(now) {
                hedge = self.dispatch(said.as_ref()).ok();
            }
            self.stage = Stage::Waiting {
                attempt,
                hedge,
                said,
            };
            return Step::Again;
        }
        self.stage = Stage::Waiting {
            attempt,
            hedge,
            said,
        };
        Step::Pending
    }

    fn answer(
        &mut self,
        mut attempt: Attempt,
        heard: Time,
        said: Option<Said>,
        now: Time,
        cx: &mut Context<'_>,
    ) -> Step {
        let error = match attempt.poll(cx) {
            Poll::Ready(Some(Ok(event))) => {
                let said = said.and_then(|said| said.note(&event, now));
                if said.is_none() {
                    self.spare = None;
                }
                let event = match &said {
                    Some(said) => said.timed(event, self.called),
                    None => event,
                };
                self.stage = Stage::Answering {
                    attempt,
                    heard: now,
                    said,
                };
                return Step::Item(Some(Ok(event)));
            }
            Poll::Ready(Some(Err(error))) => error,
            Poll::Ready(None) => return Step::Item(None),
            Poll::Pending => {
                let limit = self.shared.timeouts.between_tokens;
                let Some(limit) = limit.filter(|limit| now.saturating_sub(heard) >= *limit) else {
                    self.stage = Stage::Answering {
                        attempt,
                        heard,
                        said,
                    };
                    return Step::Pending;
                };
                let error = Error::TimedOut {
                    what: "next token",
                    limit,
                };
                attempt.fail(&error);
                error
            }
        };
        drop(attempt);
        if said.is_none() || !is_about_replica(&error) {
            return Step::Item(Some(Err(error)));
        }
        self.retry(error, said, now)
    }
}

/// What came of a step.
enum Step {
    Item(Option<Result<Event, Error>>),
    Again,
    Pending,
}

impl Step {
    /// An event to pass on, or none.
    fn of(event: Option<Event>) -> Self {
        match event {
            Some(event) => Step::Item(Some(Ok(event))),
            None => Step::Again,
        }
    }
}

impl Stream for Routed {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // A few rounds for each replica at most.
        loop {
            match this.advance(cx) {
                Step::Item(item) => return Poll::Ready(item),
                Step::Again => continue,
                Step::Pending => {}
            }
            let now = this.shared.timer.now();
            // Only where nothing is there to be read: a slow reader is no slow replica.
            if let Some((until, limit)) = this.until
                && now >= until
            {
                this.stage = Stage::Ended;
                return Poll::Ready(Some(Err(Error::TimedOut { what: "end", limit })));
            }
            match this.next_look() {
                Some(at) if at <= now => continue,
                at => {
                    this.wait.until(at, &*this.shared.timer, cx);
                    return Poll::Pending;
                }
            }
        }
    }
}
