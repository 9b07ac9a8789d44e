//! Routers over replicas that follow a script.

mod eligibility;
mod endings;
mod failover;
mod health;
mod membership;
mod naive;
mod reliability;
mod residency;
mod routing;
mod stress;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{
    Error, Event, EventStream, FinishReason, Finished, Generate, Request, Started, Timings,
    TokenEvent, Usage,
};
use parking_lot::Mutex;

use crate::{Ask, Candidates, Router, Slot, Strategy};

/// What a scripted stream does when it is polled.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Emit(Event),
    Fail(Error),
    Panic,
    /// Pending once; wakes at once.
    Yield,
    /// Pending for ever.
    Hang,
}

/// What a scripted replica does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    Stream(Vec<Step>),
    /// `generate()` itself panics.
    PanicAtOnce,
    /// The stream panics when it is dropped.
    PanicOnDrop(Vec<Step>),
}

type Author = dyn Fn(&Request) -> Script + Send + Sync;

/// A replica that answers by script, and remembers.
pub(crate) struct Scripted {
    author: Box<Author>,
    pub(crate) seen: Mutex<Vec<Request>>,
    /// Streams that live.
    live: Arc<AtomicUsize>,
}

impl Scripted {
    pub(crate) fn new(author: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            author: Box::new(author),
            seen: Mutex::default(),
            live: Arc::default(),
        })
    }

    pub(crate) fn always(steps: Vec<Step>) -> Arc<Self> {
        Self::new(move |_| Script::Stream(steps.clone()))
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().len()
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

impl Generate for Scripted {
    fn generate(&self, request: Request) -> EventStream {
        self.seen.lock().push(request.clone());
        let (steps, panic_on_drop) = match (self.author)(&request) {
            Script::Stream(steps) => (steps, false),
            Script::PanicOnDrop(steps) => (steps, true),
            Script::PanicAtOnce => panic!("generate, on purpose"),
        };
        self.live.fetch_add(1, Ordering::SeqCst);
        EventStream::new(Playing {
            steps: steps.into(),
            live: self.live.clone(),
            panic_on_drop,
        })
    }
}

struct Playing {
    steps: VecDeque<Step>,
    live: Arc<AtomicUsize>,
    panic_on_drop: bool,
}

impl Stream for Playing {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.steps.pop_front() {
            Some(Step::Emit(event)) => Poll::Ready(Some(Ok(event))),
            Some(Step::Fail(error)) => Poll::Ready(Some(Err(error))),
            Some(Step::Panic) => panic!("poll, on purpose"),
            Some(Step::Yield) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Hang) => {
                self.steps.push_front(Step::Hang);
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
        assert!(!self.panic_on_drop, "drop, on purpose");
    }
}

pub(crate) fn started() -> Step {
    Step::Emit(Event::Started(Started::default()))
}

pub(crate) fn token(text: &str) -> Step {
    Step::Emit(Event::Token(TokenEvent {
        index: 0,
        id: 1,
        text: text.into(),
        logprobs: None,
    }))
}

pub(crate) fn finished(index: usize) -> Step {
    Step::Emit(Event::Finished(Finished {
        index,
        reason: FinishReason::Length,
        text: String::new(),
        usage: Usage::default(),
        timings: Timings {
            queue: Duration::from_millis(1),
            time_to_first_token: Duration::from_millis(2),
            latency: Duration::from_millis(3),
        },
    }))
}

/// A whole answer of one choice.
pub(crate) fn says(text: &str) -> Vec<Step> {
    vec![started(), Step::Yield, token(text), finished(0)]
}

pub(crate) fn fails(error: Error) -> Vec<Step> {
    vec![Step::Yield, Step::Fail(error)]
}

pub(crate) fn overloaded() -> Error {
    Error::Overloaded {
        waiting: 8,
        limit: 8,
        unit: "requests",
        retry_after: Some(Duration::from_secs(1)),
    }
}

/// Always the first one.
pub(crate) struct First;

impl Strategy for First {
    fn pick(&self, _: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        candidates.nth(0)
    }
}

/// Asserts that nothing is counted as running.
#[track_caller]
pub(crate) fn assert_idle(router: &Router) {
    for replica in router.stats().replicas {
        assert_eq!(
            (replica.outstanding, replica.outstanding_tokens),
            (0, 0),
            "{}",
            replica.name
        );
    }
}
