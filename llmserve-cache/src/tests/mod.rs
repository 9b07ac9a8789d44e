//! Layers around services that follow a script.

mod apart;
mod flight;
pub(crate) mod hostile;
mod layer;
mod semantic;
mod stores;
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
    TokenEvent, TokenLogprobs, Usage,
};
use parking_lot::Mutex;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to shake things.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// What a scripted stream does when it is polled.
#[derive(Clone, Debug)]
enum Step {
    Emit(Event),
    Fail(Error),
    Panic,
    /// Pending once; wakes at once.
    Yield,
}

type Author = dyn Fn(&Request) -> Vec<Step> + Send + Sync;

/// A service that answers by script, and remembers.
struct Scripted {
    author: Box<Author>,
    seen: Mutex<Vec<Request>>,
    /// Streams that live.
    live: Arc<AtomicUsize>,
}

impl Scripted {
    fn new(author: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            author: Box::new(author),
            seen: Mutex::default(),
            live: Arc::default(),
        })
    }

    fn always(steps: Vec<Step>) -> Arc<Self> {
        Self::new(move |_| steps.clone())
    }

    fn calls(&self) -> usize {
        self.seen.lock().len()
    }
}

impl Generate for Scripted {
    fn generate(&self, request: Request) -> EventStream {
        let steps = (self.author)(&request);
        self.seen.lock().push(request);
        self.live.fetch_add(1, Ordering::SeqCst);
        EventStream::new(Playing {
            steps: steps.into(),
            live: self.live.clone(),
        })
    }
}

struct Playing {
    steps: VecDeque<Step>,
    live: Arc<AtomicUsize>,
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
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

fn started() -> Step {
    Step::Emit(Event::Started(Started {
        prompt_ids: Arc::from([1, 2, 3]),
        prompt_logprobs: Some(Arc::from([logprobs(2), logprobs(3)])),
    }))
}

fn logprobs(id: u32) -> TokenLogprobs {
    TokenLogprobs {
        id,
        logprob: -0.5,
        top: vec![(id, -0.5), (id + 1, -1.5)],
    }
}

fn token(index: usize, text: &str) -> Step {
    Step::Emit(Event::Token(TokenEvent {
        index,
        id: 7,
        text: text.into(),
        logprobs: Some(logprobs(7)),
    }))
}

fn finished(index: usize, reason: FinishReason) -> Step {
    Step::Emit(Event::Finished(Finished {
        index,
        reason,
        text: "held back".into(),
        usage: Usage {
            prompt_tokens: 3,
            cached_tokens: 1,
            completion_tokens: 1,
        },
        timings: Timings {
            queue: Duration::from_millis(10),
            time_to_first_token: Duration::from_millis(20),
            latency: Duration::from_millis(30),
        },
    }))
}

/// A whole answer of one choice.
fn says(text: &str) -> Vec<Step> {
    vec![
        started(),
        Step::Yield,
        token(0, text),
        finished(0, FinishReason::Eos(2)),
    ]
}

/// All events of a stream that does not fail.
#[track_caller]
fn events(stream: EventStream) -> Vec<Event> {
    stream.into_iter().map(Result::unwrap).collect()
}

/// The events without what is each run's own.
fn timeless(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Finished(finished) = event {
            finished.timings = Timings::default();
        }
    }
    events
}
