//! A request on its way: the stream that fails over.
//!
//! ```text
//!            ┌──────────── dispatch ◄───────────┐
//!            ▼                                  │ an error about the replica,
//!  waiting for the first event ─────────────────┘ and somebody untried is left
//!            │
//!            │ first event: from here on it is this replica's answer
//!            ▼
//!         passing on ─► end or error
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{Error, Event, Request, Time};

use crate::attempt::Attempt;
use crate::failover::is_about_replica;
use crate::router::Shared;

/// What came of looking for a replica.
pub(crate) enum Next {
    /// The request is with one.
    Sent,
    /// Nobody is left to ask.
    Nobody,
    /// The strategy wants none of those that are left.
    Declined {
        /// Their outstanding requests.
        outstanding: usize,
    },
}

/// The events of one routed request.
pub(crate) struct Routed {
    shared: Arc<Shared>,
    /// The request, while it may have to be sent once more. Gone with the first event: a prompt
    /// may be large, and an answer long.
    spare: Option<Request>,
    /// Replicas asked so far, by index, the present one included.
    tried: Vec<usize>,
    /// The present one. None before the first dispatch and after the end.
    attempt: Option<Attempt>,
    called: Time,
}

impl Routed {
    pub(crate) fn new(shared: Arc<Shared>, request: Request) -> Self {
        let called = shared.clock.now();
        Self {
            shared,
            spare: Some(request),
            tried: Vec::new(),
            attempt: None,
            called,
        }
    }

    /// Sends the request to the next replica.
    ///
    /// # Errors
    /// A panic of the strategy.
    pub(crate) fn dispatch(&mut self) -> Result<Next, Error> {
        let Some(request) = self.spare.take() else {
            return Ok(Next::Nobody);
        };
        let shared = &self.shared;
        let candidates = shared.candidates(&request, &self.tried);
        if candidates.is_empty() {
            return Ok(Next::Nobody);
        }
        let Some(index) = shared.pick(&candidates, &request)? else {
            let outstanding = candidates.iter().map(|c| c.outstanding).sum();
            return Ok(Next::Declined { outstanding });
        };
        self.tried.push(index);
        if candidates.len() > 1 && self.tried.len() < shared.max_attempts {
            self.spare = Some(request.clone());
        }
        let behind = if self.tried.len() == 1 {
            Duration::ZERO
        } else {
            shared.clock.now().saturating_sub(self.called)
        };
        self.attempt = Some(Attempt::dispatch(&shared.replicas[index], request, behind));
        Ok(Next::Sent)
    }
}

impl Stream for Routed {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // At most one round for each replica.
        loop {
            let Some(attempt) = &mut this.attempt else {
                return Poll::Ready(None);
            };
            match attempt.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(event))) => {
                    this.spare = None;
                    return Poll::Ready(Some(Ok(event)));
                }
                Poll::Ready(None) => {
                    this.attempt = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    // Given back before the next is picked, so that the strategy sees it.
                    this.attempt = None;
                    if !is_about_replica(&error) {
                        return Poll::Ready(Some(Err(error)));
                    }
                    match this.dispatch() {
                        Ok(Next::Sent) => {}
                        Ok(Next::Nobody | Next::Declined { .. }) => {
                            return Poll::Ready(Some(Err(error)));
                        }
                        Err(panicked) => return Poll::Ready(Some(Err(panicked))),
                    }
                }
            }
        }
    }
}
