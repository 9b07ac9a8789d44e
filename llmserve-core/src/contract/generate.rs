//! *The* service: a request goes in, a stream of events comes out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use futures_core::Stream;

use crate::error::Error;
use crate::event::{Event, Response};
use crate::request::Request;

/// Anything that answers requests: an engine, a remote endpoint, a router over many, a cache
/// around any of them.
///
/// ```
/// use llmserve_core::{Error, EventStream, Generate, Request};
///
/// /// A layer that refuses everything, around any service.
/// struct Closed<G>(G);
/// impl<G: Generate> Generate for Closed<G> {
///     fn generate(&self, _request: Request) -> EventStream {
///         EventStream::failed(Error::ShutDown)
///     }
/// }
/// ```
pub trait Generate: Send + Sync {
    /// Starts answering. Neither blocks nor awaits: every failure comes through the stream.
    fn generate(&self, request: Request) -> EventStream;
}

impl<G: Generate + ?Sized> Generate for Arc<G> {
    fn generate(&self, request: Request) -> EventStream {
        (**self).generate(request)
    }
}

impl<G: Generate + ?Sized> Generate for Box<G> {
    fn generate(&self, request: Request) -> EventStream {
        (**self).generate(request)
    }
}

/// The events of one request.
///
/// Owns its parts, so it can move to any thread or task. It is a [`Stream`] for async hosts; a `for`
/// loop over it, [`blocking_next`](Self::blocking_next) and [`wait`](Self::wait) park the thread
/// between events. Dropping it cancels the request.
///
/// After an error, or after every choice has finished, the stream ends.
pub struct EventStream {
    inner: Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>,
    done: bool,
}

impl EventStream {
    /// A stream of events made elsewhere.
    pub fn new(inner: impl Stream<Item = Result<Event, Error>> + Send + 'static) -> Self {
        Self {
            inner: Box::pin(inner),
            done: false,
        }
    }

    /// A stream of events already there.
    pub fn ready<I>(events: I) -> Self
    where
        I: IntoIterator<Item = Result<Event, Error>>,
        I::IntoIter: Send + Unpin + 'static,
    {
        struct Ready<I>(I);
        impl<I: Iterator<Item = Result<Event, Error>> + Unpin> Stream for Ready<I> {
            type Item = Result<Event, Error>;
            fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
                Poll::Ready(self.get_mut().0.next())
            }
        }
        Self::new(Ready(events.into_iter()))
    }

    /// A stream that only fails.
    pub fn failed(error: Error) -> Self {
        Self::ready([Err(error)])
    }

    /// Blocks until the answer is complete.
    ///
    /// # Errors
    /// The first error of the stream.
    pub fn wait(self) -> Result<Response, Error> {
        let mut response = Response::default();
        for event in self {
            response.push(event?);
        }
        Ok(response)
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream")
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl Stream for EventStream {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        let item = self.inner.as_mut().poll_next(cx);
        if matches!(item, Poll::Ready(None | Some(Err(_)))) {
            self.done = true;
        }
        item
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl EventStream {
    /// Waits for the next event, parking the thread; none after the last.
    pub fn blocking_next(&mut self) -> Option<Result<Event, Error>> {
        // One waker a thread: making it costs an allocation, and an event is often ready.
        thread_local! {
            static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
        }
        WAKER.with(|waker| {
            let mut cx = Context::from_waker(waker);
            loop {
                match Pin::new(&mut *self).poll_next(&mut cx) {
                    Poll::Ready(item) => return item,
                    // A stray unpark only polls once more.
                    Poll::Pending => thread::park(),
                }
            }
        })
    }
}

/// The blocking iterator over a stream, owned or borrowed: see [`EventStream::blocking_next`].
///
/// An adapter and not the stream itself, so that `stream.next()` means one thing where an async
/// host has `StreamExt` in scope.
#[derive(Debug)]
pub struct Blocking<S>(S);

impl Iterator for Blocking<EventStream> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.blocking_next()
    }
}

impl Iterator for Blocking<&mut EventStream> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.blocking_next()
    }
}

impl IntoIterator for EventStream {
    type Item = Result<Event, Error>;
    type IntoIter = Blocking<EventStream>;

    fn into_iter(self) -> Self::IntoIter {
        Blocking(self)
    }
}

impl<'a> IntoIterator for &'a mut EventStream {
    type Item = Result<Event, Error>;
    type IntoIter = Blocking<&'a mut EventStream>;

    fn into_iter(self) -> Self::IntoIter {
        Blocking(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_after_an_error() {
        let mut stream = EventStream::ready([Err(Error::ShutDown), Err(Error::Cancelled)]);
        assert!(matches!(stream.blocking_next(), Some(Err(Error::ShutDown))));
        assert!(stream.blocking_next().is_none());
    }

    #[test]
    fn the_iterator_waits_for_another_thread() {
        struct Later(Arc<parking_lot::Mutex<(bool, Option<Waker>)>>);
        impl Stream for Later {
            type Item = Result<Event, Error>;
            fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
                let mut state = self.0.lock();
                if state.0 {
                    return Poll::Ready(None);
                }
                state.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
        let state = Arc::new(parking_lot::Mutex::new((false, None::<Waker>)));
        let mut stream = EventStream::new(Later(state.clone()));
        let other = thread::spawn(move || {
            loop {
                let mut state = state.lock();
                if let Some(waker) = state.1.take() {
                    state.0 = true;
                    waker.wake();
                    return;
                }
                drop(state);
                thread::yield_now();
            }
        });
        assert!(stream.blocking_next().is_none());
        other.join().unwrap();
    }
}
