//! The thread that reads what nobody waits for.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use llmserve_core::{Event, EventStream, Generate, Request};
use parking_lot::{Condvar, Mutex};

use super::shadow::ShadowStats;

/// What became of copies.
#[derive(Default)]
pub(super) struct Counts {
    sent: AtomicU64,
    running: AtomicUsize,
    finished: AtomicU64,
    failed: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) elsewhere: AtomicU64,
    pub(super) unfit: AtomicU64,
}

impl Counts {
    pub(super) fn stats(&self) -> ShadowStats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ShadowStats {
            sent: of(&self.sent),
            running: self.running.load(Ordering::Acquire),
            finished: of(&self.finished),
            failed: of(&self.failed),
            full: of(&self.full),
            elsewhere: of(&self.elsewhere),
            unfit: of(&self.unfit),
        }
    }
}

/// Copies on their way, and the thread that reads them.
pub(super) struct Copies {
    shared: Arc<Shared>,
    most: usize,
}

struct Shared {
    service: Arc<dyn Generate>,
    counts: Counts,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests to be sent.
    sent: VecDeque<Box<Request>>,
    /// Streams to be polled, by number.
    ready: VecDeque<u64>,
    running: bool,
    ended: bool,
}

impl Copies {
    pub(super) fn new(service: Arc<dyn Generate>, most: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                service,
                counts: Counts::default(),
                state: Mutex::default(),
                news: Condvar::new(),
            }),
            most,
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Takes a place for a copy that is then [sent](Self::send); false: all are taken.
    pub(super) fn take_place(&self) -> bool {
        let running = &self.shared.counts.running;
        let more = |running: usize| (running < self.most).then_some(running + 1);
        running
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }

    /// Sends `copy` soon, on the thread that reads it.
    pub(super) fn send(&self, copy: Request) {
        let mut state = self.shared.state.lock();
        if !state.running {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("llmserve-shadow".into());
            state.running = thread.spawn(move || read(&shared)).is_ok();
        }
        self.shared.counts.sent.fetch_add(1, Ordering::Relaxed);
        if state.running {
            state.sent.push_back(Box::new(copy));
            self.shared.news.notify_one();
        } else {
            drop(state);
            self.shared.gone(&self.shared.counts.failed);
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.news.notify_one();
    }
}

impl Shared {
    /// A copy is no more.
    fn gone(&self, how: &AtomicU64) {
        how.fetch_add(1, Ordering::Relaxed);
        self.counts.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Puts its stream among those to be polled.
struct Ready {
    number: u64,
    shared: Arc<Shared>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.shared.state.lock().ready.push_back(self.number);
        self.shared.news.notify_one();
    }
}

/// An answer that nobody reads.
struct Copy {
    stream: EventStream,
    waker: Waker,
    unfinished: usize,
}

/// What to do next.
enum Next {
    Send(Box<Request>),
    Poll(u64),
    End,
}

impl Shared {
    fn next(&self) -> Next {
        let mut state = self.state.lock();
        loop {
            if state.ended {
                return Next::End;
            }
            if let Some(number) = state.ready.pop_front() {
                return Next::Poll(number);
            }
            if let Some(request) = state.sent.pop_front() {
                return Next::Send(request);
            }
            self.news.wait(&mut state);
        }
    }
}

/// Sends copies and reads their answers, until nobody can send any more.
fn read(shared: &Arc<Shared>) {
    let mut copies: HashMap<u64, Copy> = HashMap::new();
    let mut numbers = 0;
    loop {
        let number = match shared.next() {
            // What runs is cancelled.
            Next::End => break,
            Next::Poll(number) => number,
            Next::Send(request) => {
                let unfinished = request.n;
                let service = &shared.service;
                let Ok(stream) = catch_unwind(AssertUnwindSafe(|| service.generate(*request)))
                else {
                    shared.gone(&shared.counts.failed);
                    continue;
                };
                numbers += 1;
                let ready = Ready {
                    number: numbers,
                    shared: shared.clone(),
                };
                let copy = Copy {
                    stream,
                    waker: Waker::from(Arc::new(ready)),
                    unfinished,
                };
                copies.insert(numbers, copy);
                numbers
            }
        };
        let Some(copy) = copies.get_mut(&number) else {
            continue;
        };
        let poll = catch_unwind(AssertUnwindSafe(|| copy.poll()));
        let how = match poll {
            Ok(Poll::Pending) => continue,
            Ok(Poll::Ready(true)) => &shared.counts.finished,
            Ok(Poll::Ready(false)) | Err(_) => &shared.counts.failed,
        };
        let copy = copies.remove(&number);
        // A stream may panic when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(copy)));
        shared.gone(how);
    }
    for (_, copy) in copies {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(copy)));
    }
}

impl Copy {
    /// Reads one event, so that each copy has its turn; whether it finished.
    fn poll(&mut self) -> Poll<bool> {
        let mut cx = Context::from_waker(&self.waker);
        match Pin::new(&mut self.stream).poll_next(&mut cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(event))) => {
                let finished = usize::from(matches!(event, Event::Finished(_)));
                self.unfinished = self.unfinished.saturating_sub(finished);
                if self.unfinished == 0 {
                    return Poll::Ready(true);
                }
                self.waker.wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(false),
            Poll::Ready(None) => Poll::Ready(self.unfinished == 0),
        }
    }
}
