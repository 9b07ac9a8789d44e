//! A request on its way up: the stream that looks at answers before it tells them.
//!
//! ```text
//!   held back ──────── complete ──► check ── good ─────────────► telling ──► end
//!    │    ▲                           │                             ▲
//!    │    └─── somebody above ────────┤ not                         │
//!    │ error of the tier's own ───────┤                             │
//!    │                                └─ nobody: what there is ─────┘
//!    └─ the highest: live, its events passed on as they come
//! ```

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::error::panic_message;
use llmserve_core::{Error, Event, Request, Response, Time, Usage};

use super::Inner;
use crate::ask::Prepared;
use crate::failover::is_about_replica;
use crate::fleet::Slot;
use crate::router::Attempt;

/// The events of one request.
pub(super) struct Climb {
    inner: Arc<Inner>,
    request: Box<Request>,
    called: Time,
    /// The tiers asked so far and those below them.
    passed: Vec<Slot>,
    /// What all runs that have ended used, by choice.
    spent: Vec<Usage>,
    /// The last complete answer that was not good enough.
    kept: Option<VecDeque<Event>>,
    stage: Stage,
}

enum Stage {
    Running(Box<Run>),
    Telling(VecDeque<Event>),
    Ended,
}

/// One tier's answer.
struct Run {
    attempt: Attempt,
    slot: Slot,
    /// Whether its events are passed on at once. Others are held back.
    live: bool,
    held: VecDeque<Event>,
    answer: Response,
    /// Choices that have not finished.
    unfinished: usize,
    /// Whether anything was passed on.
    told: bool,
}

impl Climb {
    /// `request`, sent to the lowest tier that may answer it.
    ///
    /// # Errors
    /// Nobody may, or it goes on with tokens of one model.
    pub(super) fn begin(inner: Arc<Inner>, request: Request) -> Result<Self, Error> {
        if !request.resume.is_empty() {
            return Err(Error::invalid_request(
                "resume",
                "the answers of a cascade come from several models, so that none can go on with \
                 another's tokens; ask the tier that began",
            ));
        }
        let called = inner.timer.now();
        let mut climb = Self {
            called,
            request: Box::new(request),
            passed: Vec::new(),
            spent: Vec::new(),
            kept: None,
            stage: Stage::Ended,
            inner,
        };
        climb.stage = Stage::Running(climb.step_up()?);
        Ok(climb)
    }

    /// Sends the request to the next tier that may answer it.
    fn step_up(&mut self) -> Result<Box<Run>, Error> {
        let Inner { router, check, .. } = &*self.inner;
        let assigned = router.assign(&self.request, &Prepared::default(), &self.passed)?;
        let slot = assigned.slot();
        let fleet = router.fleet();
        let members = fleet.members().map(|(slot, _)| slot);
        self.passed = members
            .filter(|other| other.index() <= slot.index())
            .collect();
        let live = self.passed.len() == fleet.len() || self.request.routing.tier.is_some();
        let mut sent = (*self.request).clone();
        if live {
            self.request.on_end.clear();
        } else {
            // It may not be the last to work for the request.
            sent.on_end.clear();
            if check.wants_logprobs() {
                sent.logprobs.get_or_insert(0);
            }
        }
        let behind = assigned.began().saturating_sub(self.called);
        Ok(Box::new(Run {
            slot,
            live,
            held: VecDeque::new(),
            answer: Response::default(),
            unfinished: sent.n,
            told: false,
            attempt: Attempt::dispatch(assigned, sent, behind),
        }))
    }

    /// What `run` used, added to what was spent before.
    fn spend(&mut self, run: &Run) {
        if self.spent.len() < run.answer.choices.len() {
            let choices = run.answer.choices.len();
            self.spent.resize(choices, Usage::default());
        }
        for (spent, choice) in self.spent.iter_mut().zip(&run.answer.choices) {
            let usage = choice.usage;
            // One that was cut off told nothing.
            let prompt = usage.prompt_tokens.max(run.answer.started.prompt_ids.len());
            let completion = usage.completion_tokens.max(choice.ids.len());
            spent.prompt_tokens += prompt;
            spent.cached_tokens += usage.cached_tokens;
            spent.completion_tokens += completion;
        }
    }

    /// Whether there is time for the tier after those passed.
    fn in_time(&self) -> bool {
        let elapsed = self.inner.timer.now().saturating_sub(self.called);
        if self.request.deadline.is_some_and(|limit| elapsed >= limit) {
            return false;
        }
        let next = self.inner.rungs.get(self.passed.len());
        let takes = next.and_then(|rung| rung.latency);
        let budget = self.request.routing.latency_budget;
        takes
            .zip(budget)
            .is_none_or(|(takes, budget)| elapsed.saturating_add(takes) <= budget)
    }

    /// The next tier; or what there is, or `error`.
    fn go_on(&mut self, error: Option<Error>) -> Option<Error> {
        let next = if self.kept.is_none() || self.in_time() {
            self.step_up()
        } else {
            Err(Error::Cancelled)
        };
        match (next, self.kept.take()) {
            (Ok(run), kept) => {
                self.kept = kept;
                self.stage = Stage::Running(run);
                None
            }
            (Err(_), Some(kept)) => {
                self.tell(kept);
                None
            }
            (Err(refused), None) => Some(error.unwrap_or(refused)),
        }
    }

    /// An answer that was held back goes to the reader.
    fn tell(&mut self, events: VecDeque<Event>) {
        for ended in self.request.on_end.drain(..) {
            let _ = catch_unwind(AssertUnwindSafe(|| ended()));
        }
        self.stage = Stage::Telling(events);
    }

    /// A run that was held back is complete, or has ended without an end.
    fn judge(&mut self, run: Run) -> Option<Error> {
        self.spend(&run);
        let Run {
            attempt,
            slot,
            held,
            answer,
            unfinished,
            ..
        } = run;
        drop(attempt);
        let check = &self.inner.check;
        let accepted = catch_unwind(AssertUnwindSafe(|| {
            unfinished == 0 && check.accepts(&self.request, &answer)
        }));
        match accepted {
            Ok(true) => {
                self.tell(held);
                None
            }
            Ok(false) => {
                if let Some(rung) = self.inner.rungs.get(slot.index()) {
                    rung.rejected.fetch_add(1, Ordering::Relaxed);
                }
                if unfinished == 0 || self.kept.is_none() {
                    self.kept = Some(held);
                }
                self.go_on(None)
            }
            Err(panic) => Some(Error::Panicked {
                part: "quality check",
                message: panic_message(&*panic),
            }),
        }
    }

    /// `event` as the reader is to see it, whose answer was held back until now.
    fn released(&self, mut event: Event) -> Event {
        match &mut event {
            Event::Token(token) if self.request.logprobs.is_none() => token.logprobs = None,
            Event::Finished(finished) => {
                if let Some(spent) = self.spent.get(finished.index) {
                    finished.usage = *spent;
                }
                let seen: Duration = self.inner.timer.now().saturating_sub(self.called);
                finished.timings.time_to_first_token = seen;
                finished.timings.latency = seen;
            }
            _ => {}
        }
        event
    }

    /// `event` of a run that is passed on as it comes.
    fn live(&self, mut event: Event) -> Event {
        if let Event::Finished(finished) = &mut event
            && let Some(spent) = self.spent.get(finished.index)
        {
            let usage = &mut finished.usage;
            usage.prompt_tokens += spent.prompt_tokens;
            usage.cached_tokens += spent.cached_tokens;
            usage.completion_tokens += spent.completion_tokens;
        }
        event
    }

    /// One step; none: look again at once.
    fn advance(&mut self, cx: &mut Context<'_>) -> Option<Poll<Option<Result<Event, Error>>>> {
        let error = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ended => return Some(Poll::Ready(None)),
            Stage::Telling(mut events) => {
                let event = events.pop_front()?;
                self.stage = Stage::Telling(events);
                return Some(Poll::Ready(Some(Ok(self.released(event)))));
            }
            Stage::Running(mut run) => match run.attempt.poll(cx) {
                Poll::Pending => {
                    self.stage = Stage::Running(run);
                    return Some(Poll::Pending);
                }
                Poll::Ready(Some(Ok(event))) if run.live => {
                    run.told = true;
                    self.stage = Stage::Running(run);
                    return Some(Poll::Ready(Some(Ok(self.live(event)))));
                }
                Poll::Ready(Some(Ok(event))) => {
                    run.note(event);
                    if run.unfinished > 0 {
                        self.stage = Stage::Running(run);
                        return None;
                    }
                    self.judge(*run)
                }
                Poll::Ready(None) if run.live => return Some(Poll::Ready(None)),
                Poll::Ready(None) => self.judge(*run),
                Poll::Ready(Some(Err(error))) => {
                    let other =
                        is_about_replica(&error) || matches!(error, Error::PromptTooLong { .. });
                    if run.told || !other {
                        return Some(Poll::Ready(Some(Err(error))));
                    }
                    self.spend(&run);
                    // Given back before the next is asked.
                    drop(run);
                    self.go_on(Some(error))
                }
            },
        };
        error.map(|error| Poll::Ready(Some(Err(error))))
    }
}

impl Run {
    fn note(&mut self, event: Event) {
        let finished = usize::from(matches!(event, Event::Finished(_)));
        self.unfinished = self.unfinished.saturating_sub(finished);
        self.answer.push(event.clone());
        self.held.push_back(event);
    }
}

impl Stream for Climb {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // As often as there are tiers, and once for each event that is held back.
        loop {
            if let Some(item) = this.advance(cx) {
                return item;
            }
        }
    }
}
