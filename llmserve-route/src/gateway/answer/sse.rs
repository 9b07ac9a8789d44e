//! An answer as a stream of server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use llmserve_core::{Error, Event};

use super::Teller;
use crate::gateway::gather::Gathered;
use crate::gateway::refusal::Refusal;
use crate::gateway::switch::InFlight;

/// What is handed over at once, about: events that are ready together travel together.
const BUFFER: usize = 16 << 10;

/// The body of a streamed answer. Dropping it, as the server does when the client has gone, cancels
/// the requests.
pub(in crate::gateway) struct Telling {
    teller: Teller,
    gathered: Gathered,
    /// Read already, to know that there is an answer at all.
    first: Option<(usize, Event)>,
    /// Given back at the end, though the server may hold on to the body.
    in_flight: Option<InFlight>,
}

impl Telling {
    pub(in crate::gateway) fn new(
        teller: Teller,
        gathered: Gathered,
        first: Option<(usize, Event)>,
        in_flight: InFlight,
    ) -> Self {
        Self {
            teller,
            gathered,
            first,
            in_flight: Some(in_flight),
        }
    }

    fn end(&mut self, error: Option<Error>, out: &mut Vec<u8>) {
        self.in_flight = None;
        match error {
            None => self.teller.end(out),
            // The status has been sent: an event says it, and no `[DONE]` follows.
            Some(error) => {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(Refusal::from(error).to_json().to_string().as_bytes());
                out.extend_from_slice(b"\n\n");
            }
        }
    }
}

impl Stream for Telling {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.in_flight.is_none() {
            return Poll::Ready(None);
        }
        let mut out = Vec::new();
        if let Some((prompt, event)) = this.first.take() {
            this.teller.piece(prompt, &event, &mut out);
        }
        while out.len() < BUFFER && this.in_flight.is_some() {
            match this.gathered.poll_next(cx) {
                Poll::Ready(Some(Ok((prompt, event)))) => {
                    this.teller.piece(prompt, &event, &mut out);
                }
                Poll::Ready(Some(Err(error))) => this.end(Some(error), &mut out),
                Poll::Ready(None) => this.end(None, &mut out),
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(Bytes::from(out))))
    }
}
