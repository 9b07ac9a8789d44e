//! Many streams, one thread, no async runtime.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;

use super::generate::EventStream;
use crate::error::Error;
use crate::event::Event;
use crate::sync::{Condvar, Mutex};

/// Reads many streams as one, in the order in which their events come. Ends when all have ended.
/// Dropping it cancels what has not.
///
/// ```
/// use llmserve_core::{Error, EventStream, merge};
/// let streams = vec![EventStream::failed(Error::Cancelled), EventStream::failed(Error::ShutDown)];
/// let mut kinds: Vec<_> =
///     merge(streams).map(|(index, event)| (index, event.unwrap_err().kind())).collect();
/// kinds.sort();
/// assert_eq!(kinds, [(0, "cancelled"), (1, "shut_down")]);
/// ```
pub fn merge(streams: impl IntoIterator<Item = EventStream>) -> Merged {
    let ready = Arc::new(Ready {
        queue: Mutex::default(),
        news: Condvar::new(),
    });
    let mut merged = Merged {
        sources: Vec::new(),
        ready,
        open: 0,
    };
    for stream in streams {
        merged.push(stream);
    }
    merged
}

/// The iterator [`merge`] makes: each event with the number of its stream.
pub struct Merged {
    sources: Vec<Option<Source>>,
    ready: Arc<Ready>,
    open: usize,
}

struct Source {
    stream: EventStream,
    waker: Waker,
}

struct Ready {
    queue: Mutex<VecDeque<usize>>,
    news: Condvar,
}

struct Notify {
    index: usize,
    ready: Arc<Ready>,
}

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        self.ready.queue.lock().push_back(self.index);
        self.ready.news.notify_one();
    }
}

impl Merged {
    /// Adds a stream; its number is the count of streams added before it.
    pub fn push(&mut self, stream: EventStream) -> usize {
        let index = self.sources.len();
        let waker = Waker::from(Arc::new(Notify {
            index,
            ready: self.ready.clone(),
        }));
        self.sources.push(Some(Source { stream, waker }));
        self.ready.queue.lock().push_back(index);
        self.open += 1;
        index
    }

    /// Drops stream `index`, which cancels its request. It yields nothing more.
    pub fn cancel(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index)
            && source.take().is_some()
        {
            self.open -= 1;
        }
    }
}

impl Iterator for Merged {
    type Item = (usize, Result<Event, Error>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.open > 0 {
            let index = {
                let mut queue = self.ready.queue.lock();
                loop {
                    match queue.pop_front() {
                        Some(index) => break index,
                        None => self.ready.news.wait(&mut queue),
                    }
                }
            };
            let Some(source) = &mut self.sources[index] else {
                continue;
            };
            let mut cx = Context::from_waker(&source.waker);
            match Pin::new(&mut source.stream).poll_next(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(Some(event)) => {
                    // There may be more: ask again, after the others had their turn.
                    self.ready.queue.lock().push_back(index);
                    return Some((index, event));
                }
                Poll::Ready(None) => {
                    self.sources[index] = None;
                    self.open -= 1;
                }
            }
        }
        None
    }
}

impl std::fmt::Debug for Merged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merged")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}
