//! One call: sends it, reads its events, hands them over.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use llmserve_core::{Error, Event};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response, Url};
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, timeout, timeout_at};

use super::assemble::{Assembler, Broken};
use super::dialect::Dialect;
use super::dialect::said;
use super::fault::{transport, upstream};
use super::piece::Trouble;
use super::retry_after::retry_after;
use super::sse::SseParser;
use super::timeouts::Timeouts;

/// Bytes read of the body of an error.
const ERROR_BODY: usize = 64 << 10;

/// How long the body of an error may take, and the rest of an answer that is complete. Only what
/// has been read to its end leaves a connection that can be used again.
const REST: Duration = Duration::from_secs(1);

pub(super) type Item = Result<Event, Error>;

/// Everything a call needs.
pub(super) struct Job {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) dialect: Dialect,
    /// The endpoint's name, for errors.
    pub(super) name: String,
    pub(super) timeouts: Timeouts,
    pub(super) max_event: usize,
    /// Alternatives of logprobs that were asked for.
    pub(super) wanted: Option<usize>,
    pub(super) called: Instant,
    /// The request's own limit, after which the answer ends.
    pub(super) deadline: Option<Duration>,
}

/// Why nothing more is handed over.
enum Stop {
    /// Nobody listens.
    Gone,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// Answers to `listener`. Ends early, and closes the connection, when nobody listens.
pub(super) async fn run(mut job: Job, mut assembler: Assembler, listener: Sender<Item>) {
    let rest = tokio::select! {
        biased;
        () = listener.closed() => return,
        rest = job.answer(&mut assembler, &listener) => rest,
    };
    drop(listener);
    if let Some(mut response) = rest {
        let to_its_end = async { while let Ok(Some(_)) = response.chunk().await {} };
        let _ = timeout(REST, to_its_end).await;
    }
}

impl Job {
    /// The whole answer; what is left of it, if it is complete.
    async fn answer(
        &mut self,
        assembler: &mut Assembler,
        listener: &Sender<Item>,
    ) -> Option<Response> {
        let total = self.timeouts.total;
        let first = match (total, self.deadline) {
            (Some(total), Some(deadline)) => Some(total.min(deadline)),
            (total, deadline) => total.or(deadline),
        };
        let at = first.and_then(|limit| self.called.checked_add(limit));
        // Events on their way outlive what is cut off.
        let mut out = VecDeque::new();
        let reading = self.read(assembler, &mut out, listener);
        let result = match at {
            None => reading.await,
            Some(at) => match timeout_at(at, reading).await {
                Ok(result) => result,
                Err(_) if self.deadline == first => {
                    assembler.cut(self.called.elapsed(), &mut out);
                    let _ = hand_over(&mut out, listener).await;
                    return None;
                }
                Err(_) => Err(Stop::Failed(Error::TimedOut {
                    what: "end",
                    limit: first.unwrap_or_default(),
                })),
            },
        };
        match result {
            Ok(rest) => rest,
            Err(Stop::Gone) => None,
            Err(Stop::Failed(error)) => {
                let _ = listener.send(Err(error)).await;
                None
            }
        }
    }

    async fn read(
        &mut self,
        assembler: &mut Assembler,
        out: &mut VecDeque<Event>,
        listener: &Sender<Item>,
    ) -> Result<Option<Response>, Stop> {
        let mut response = self.send().await?;
        let mut parser = SseParser::new(self.max_event);
        let mut events = Vec::new();
        let mut last = self.called;
        loop {
            match self.next(&mut response, assembler, last).await {
                Ok(Some(bytes)) => {
                    parser
                        .push(&bytes, &mut events)
                        .map_err(|error| self.broken(&error.to_string()))?;
                }
                Ok(None) => {
                    // Some end without the empty line after their last event.
                    events.extend(parser.finish());
                    self.take(&mut events, assembler, out)?;
                    if !assembler.is_complete() {
                        let end = assembler.end(out);
                        // What there is of the answer is passed on before its failure is.
                        hand_over(out, listener).await?;
                        end.map_err(|Broken(what)| self.broken(what))?;
                    }
                    hand_over(out, listener).await?;
                    return Ok(None);
                }
                // All was said but the usage.
                Err(_) if assembler.has_ended() => {
                    let _ = assembler.end(out);
                    hand_over(out, listener).await?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
            let progress = self.take(&mut events, assembler, out);
            hand_over(out, listener).await?;
            if progress? {
                // Counted from here on: how long the reader took is not the endpoint's fault.
                last = Instant::now();
            }
            if assembler.is_complete() {
                return Ok(Some(response));
            }
        }
    }

    /// Sends the request; the head of the answer.
    async fn send(&mut self) -> Result<Response, Error> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(std::mem::take(&mut self.headers))
            .header(CONTENT_TYPE, "application/json")
            .body(std::mem::take(&mut self.body))
            .send();
        let limit = self.timeouts.first_token;
        let response = match self.within(self.called, limit, request).await {
            None => return Err(timed_out("first token", limit)),
            Some(response) => {
                response.map_err(|error| transport(&self.name, &error, self.timeouts.connect))?
            }
        };
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(response).await);
        }
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.map(|kind| kind.as_bytes().to_ascii_lowercase());
        if kind.is_none_or(|kind| !kind.starts_with(b"text/event-stream")) {
            return Err(self.broken("the answer is no event stream"));
        }
        Ok(response)
    }

    /// The next bytes of the answer; none at its end. `last` is when it last made progress.
    async fn next(
        &self,
        response: &mut Response,
        assembler: &Assembler,
        last: Instant,
    ) -> Result<Option<Bytes>, Error> {
        let (what, from, limit) = if assembler.has_started() {
            ("next token", last, self.timeouts.between_tokens)
        } else {
            ("first token", self.called, self.timeouts.first_token)
        };
        match self.within(from, limit, response.chunk()).await {
            None => Err(timed_out(what, limit)),
            Some(result) => {
                result.map_err(|error| transport(&self.name, &error, self.timeouts.connect))
            }
        }
    }

    /// None if `future` is not done `limit` after `from`. A limit beyond all time is none.
    async fn within<F: Future>(
        &self,
        from: Instant,
        limit: Duration,
        future: F,
    ) -> Option<F::Output> {
        match from.checked_add(limit) {
            Some(at) => timeout_at(at, future).await.ok(),
            None => Some(future.await),
        }
    }

    /// Reads events into the answer; whether it made progress.
    fn take(
        &self,
        events: &mut Vec<super::sse::SseEvent>,
        assembler: &mut Assembler,
        out: &mut VecDeque<Event>,
    ) -> Result<bool, Error> {
        let mut progress = false;
        for event in events.drain(..) {
            if assembler.is_complete() {
                break;
            }
            let piece =
                self.dialect
                    .read(&event, self.wanted)
                    .map_err(|trouble| match trouble {
                        Trouble::Said { status, name } => {
                            upstream(&self.name, status, named(&name), None)
                        }
                        Trouble::Garbled => self.broken("an event that is none of its dialect"),
                    })?;
            let done = piece.done;
            let broken = |Broken(what)| self.broken(what);
            progress |= assembler
                .add(piece, self.called.elapsed(), out)
                .map_err(broken)?;
            if done {
                assembler.end(out).map_err(broken)?;
            }
        }
        Ok(progress)
    }

    /// The error of an answer whose status says that it is none.
    async fn refused(&self, mut response: Response) -> Error {
        let status = response.status().as_u16();
        let after = retry_after(response.headers());
        let mut body = Vec::new();
        let read = async {
            while let Ok(Some(bytes)) = response.chunk().await {
                body.extend_from_slice(&bytes);
                if body.len() > ERROR_BODY {
                    return;
                }
            }
        };
        let _ = timeout(REST, read).await;
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        let inner = &error["error"];
        let trouble = said(if inner.is_object() { inner } else { &error });
        let name = match trouble {
            Trouble::Said { name, .. } => name,
            Trouble::Garbled => String::new(),
        };
        upstream(&self.name, Some(status), named(&name), after)
    }

    fn broken(&self, what: &str) -> Error {
        upstream(&self.name, None, what, None)
    }
}

async fn hand_over(out: &mut VecDeque<Event>, listener: &Sender<Item>) -> Result<(), Stop> {
    while !out.is_empty() {
        // Room first: what is cut off while it waits has lost nothing.
        let room = listener.reserve().await.map_err(|_| Stop::Gone)?;
        if let Some(event) = out.pop_front() {
            room.send(Ok(event));
        }
    }
    Ok(())
}

fn timed_out(what: &'static str, limit: Duration) -> Error {
    Error::TimedOut { what, limit }
}

/// An endpoint's error by the name it gave it.
fn named(name: &str) -> &str {
    if name.is_empty() {
        "an error without a name"
    } else {
        name
    }
}
