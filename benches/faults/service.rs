//! What the servers serve: tokens that follow from the request alone, at a pace, with faults.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use llmserve::{
    Error, Event, EventStream, FinishReason, Finished, Generate, ModelError, Prompt, Request,
    Started, Timings, TokenEvent, Usage,
};

/// Well, hung, answering 500, slow, or so quick that nothing but the way there and back takes time.
pub const WELL: u8 = 0;
pub const HUNG: u8 = 1;
pub const ERRORS: u8 = 2;
pub const SLOW: u8 = 3;
pub const QUICK: u8 = 4;

/// Between two tokens.
const PACE: Duration = Duration::from_millis(4);

/// Token `at` of the answer to a prompt: the same on every server.
pub fn token(prompt: u32, at: usize) -> u32 {
    (prompt ^ (at as u32).wrapping_mul(0x85eb_ca6b)).wrapping_mul(2_654_435_761) >> 12
}

/// A service with a switch for faults.
#[derive(Default)]
pub struct Service {
    pub fault: Arc<AtomicU8>,
    /// Streams that live.
    pub live: Arc<AtomicUsize>,
}

impl Generate for Service {
    fn generate(&self, request: Request) -> EventStream {
        let fault = self.fault.load(Ordering::Relaxed);
        if fault == ERRORS {
            return EventStream::failed(Error::Model(ModelError::Backend("on purpose".into())));
        }
        let Prompt::Tokens(prompt) = &request.prompt else {
            return EventStream::failed(Error::invalid_request("prompt", "tokens, please"));
        };
        self.live.fetch_add(1, Ordering::SeqCst);
        EventStream::new(Answer {
            prompt: prompt.clone(),
            at: request.resume.len(),
            most: request.max_tokens.unwrap_or(1),
            started: false,
            done: false,
            fault: self.fault.clone(),
            sleep: None,
            live: self.live.clone(),
        })
    }
}

struct Answer {
    prompt: Vec<u32>,
    at: usize,
    most: usize,
    started: bool,
    done: bool,
    fault: Arc<AtomicU8>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    live: Arc<AtomicUsize>,
}

impl Stream for Answer {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        while this.fault.load(Ordering::Relaxed) != QUICK {
            let pace = match this.fault.load(Ordering::Relaxed) {
                SLOW => PACE * 5,
                _ => PACE,
            };
            let sleep = this
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(pace)));
            if std::future::Future::poll(sleep.as_mut(), cx).is_pending() {
                return Poll::Pending;
            }
            if this.fault.load(Ordering::Relaxed) != HUNG {
                break;
            }
            // For as long as it hangs, it looks whether it still does.
            this.sleep = None;
        }
        if !this.started {
            this.started = true;
            return Poll::Ready(Some(Ok(Event::Started(Started {
                prompt_ids: this.prompt.clone().into(),
                prompt_logprobs: None,
            }))));
        }
        if this.at == this.most {
            this.done = true;
            return Poll::Ready(Some(Ok(Event::Finished(Finished {
                index: 0,
                reason: FinishReason::Length,
                text: String::new(),
                usage: Usage {
                    prompt_tokens: this.prompt.len(),
                    cached_tokens: 0,
                    completion_tokens: this.most,
                },
                timings: Timings::default(),
            }))));
        }
        let id = token(this.prompt[0], this.at);
        this.at += 1;
        this.sleep = None;
        Poll::Ready(Some(Ok(Event::Token(TokenEvent {
            index: 0,
            id,
            text: format!("{id} "),
            logprobs: None,
        }))))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}
