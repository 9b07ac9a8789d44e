//! A stream whose tokens are counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use llmserve_core::{Error, Event, EventStream, Request};

use super::charge::Charge;
use crate::estimate::prompt_tokens;

/// What is known of a request's cost, and the charge that it will be settled with.
pub(super) struct Metered {
    charge: Arc<Charge>,
    prompt: u64,
    /// Of choices that have not finished, the tokens seen; of those that have, the tokens told.
    completions: Vec<u64>,
    choices: usize,
    unfinished: usize,
    started: bool,
}

impl Metered {
    pub(super) fn new(charge: Arc<Charge>, request: &Request) -> Self {
        Self {
            charge,
            prompt: prompt_tokens(request),
            completions: Vec::new(),
            choices: request.n,
            unfinished: request.n,
            started: false,
        }
    }

    pub(super) fn around(
        self,
        stream: EventStream,
    ) -> impl Stream<Item = Result<Event, Error>> + Send + 'static {
        Counted {
            stream,
            meter: self,
        }
    }

    fn note(&mut self, event: &Event) {
        self.started = true;
        match event {
            Event::Started(started) if !started.prompt_ids.is_empty() => {
                self.prompt = started.prompt_ids.len() as u64;
            }
            Event::Token(token) => self.count(token.index, |tokens| tokens + 1),
            Event::Finished(finished) => {
                let usage = finished.usage;
                if usage.prompt_tokens > 0 {
                    self.prompt = usage.prompt_tokens as u64;
                }
                let told = usage.completion_tokens as u64;
                self.count(finished.index, |tokens| tokens.max(told));
                self.unfinished = self.unfinished.saturating_sub(1);
                if self.unfinished == 0 {
                    self.settle();
                    self.charge.release();
                }
            }
            _ => {}
        }
    }

    /// A choice that nobody asked for is not counted: its number might be anything.
    fn count(&mut self, choice: usize, tokens: impl FnOnce(u64) -> u64) {
        if choice >= self.choices {
            return;
        }
        if self.completions.len() <= choice {
            self.completions.resize(choice + 1, 0);
        }
        self.completions[choice] = tokens(self.completions[choice]);
    }

    fn settle(&self) {
        self.charge
            .settle(self.prompt + self.completions.iter().sum::<u64>());
    }
}

impl Drop for Metered {
    /// Cut off, or dropped by its reader.
    fn drop(&mut self) {
        self.settle();
        self.charge.release();
    }
}

struct Counted {
    stream: EventStream,
    meter: Metered,
}

impl Stream for Counted {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let item = Pin::new(&mut this.stream).poll_next(cx);
        match &item {
            Poll::Ready(Some(Ok(event))) => this.meter.note(event),
            Poll::Ready(Some(Err(_))) if !this.meter.started => {
                this.meter.charge.refund();
                this.meter.charge.release();
            }
            Poll::Ready(_) => {
                this.meter.settle();
                this.meter.charge.release();
            }
            Poll::Pending => {}
        }
        item
    }
}
