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

use super::attempt::Attempt;
use super::shared::{Refusal, Shared};
use crate::ask::Prepared;
use crate::failover::is_about_replica;
use crate::fleet::Slot;

/// The events of one routed request.
pub(crate) struct Routed {
    shared: Arc<Shared>,
    /// The request, while it may have to be sent once more. Gone with the first event: a prompt
    /// may be large, and an answer long.
    spare: Option<(Request, Prepared)>,
    /// Replicas asked so far, the present one included.
    tried: Vec<Slot>,
    /// The present one. None before the first dispatch and after the end.
    attempt: Option<Attempt>,
    called: Time,
}

impl Routed {
    /// `request`, sent to the first replica.
    ///
    /// # Errors
    /// Nobody may answer, the strategy wants none of those that may, or it panicked.
    pub(crate) fn begin(shared: Arc<Shared>, request: Request) -> Result<Self, Error> {
        let prepared = shared.prepare(&request)?;
        let called = shared.clock.now();
        let mut routed = Self {
            shared,
            spare: Some((request, prepared)),
            tried: Vec::new(),
            attempt: None,
            called,
        };
        match routed.dispatch() {
            None => Ok(routed),
            Some(refusal) => Err(refusal.into_error()),
        }
    }

    /// Sends the request to the next replica; or says why there is none.
    fn dispatch(&mut self) -> Option<Refusal> {
        let Some((request, prepared)) = self.spare.take() else {
            return Some(Refusal::Nobody(Error::NoReplica {
                reason: "every attempt is spent".to_owned(),
                retry_after: None,
            }));
        };
        let shared = &self.shared;
        let assigned = match shared.assign(&request, &prepared, &self.tried) {
            Ok(assigned) => assigned,
            Err(refusal) => return Some(refusal),
        };
        self.tried.push(assigned.slot());
        let fallback = request.model.as_ref();
        let others = assigned.had_others()
            || fallback.is_some_and(|model| shared.fallbacks.contains_key(model));
        if others && self.tried.len() < shared.max_attempts {
            self.spare = Some((request.clone(), prepared));
        }
        let behind = if self.tried.len() == 1 {
            Duration::ZERO
        } else {
            assigned.began().saturating_sub(self.called)
        };
        self.attempt = Some(Attempt::dispatch(assigned, request, behind));
        None
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
                        None => {}
                        Some(Refusal::Nobody(_) | Refusal::Declined(_)) => {
                            return Poll::Ready(Some(Err(error)));
                        }
                        Some(Refusal::Panicked(panicked)) => {
                            return Poll::Ready(Some(Err(panicked)));
                        }
                    }
                }
            }
        }
    }
}
