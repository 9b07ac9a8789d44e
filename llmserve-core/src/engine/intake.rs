//! From a request to tokens, off the caller's thread and off the engine's.
//!
//! Encoding a long prompt takes milliseconds: neither an async host's executor nor the step loop
//! should pay for it. One thread keeps the order of arrival.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use super::channel::Sink;
use super::request::{Prepared, Spec};
use super::{Command, Shared};
use crate::contract::clock::Time;
use crate::contract::tokenizer::{RenderOptions, Tokenizer};
use crate::error::{Error, panic_message};
use crate::ids::TokenId;
use crate::request::{Prompt, Request};

/// What the intake thread is told.
pub(super) enum Job {
    Request {
        key: u64,
        request: Box<Request>,
        sink: Sink,
        arrival: Time,
        span: tracing::Span,
    },
    /// Everything before this was accepted; nothing comes after it.
    Drain,
}

/// What a request is checked against.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) vocab_size: usize,
    /// Most tokens of a sequence: the model's context or the KV cache, whichever is smaller.
    pub(super) max_len: usize,
    /// Which of the two it is.
    pub(super) limited_by: String,
    pub(super) max_num_seqs: usize,
    pub(super) max_intake: usize,
    pub(super) has_tokenizer: bool,
}

impl Limits {
    /// Checks all that can be checked without encoding the prompt.
    pub(super) fn check(&self, request: &Request) -> Result<(), Error> {
        request.sampling.validate(self.vocab_size)?;
        if request.max_tokens == Some(0) {
            return Err(Error::invalid(
                "max_tokens",
                "0 generates nothing; ask for at least 1",
            ));
        }
        if let Some(max) = request.max_tokens
            && request.min_tokens > max
        {
            let min = request.min_tokens;
            return Err(Error::invalid(
                "min_tokens",
                format!("{min} exceeds max_tokens {max}"),
            ));
        }
        if request.n == 0 || request.n > self.max_num_seqs {
            let max = self.max_num_seqs;
            return Err(Error::invalid(
                "n",
                format!(
                    "{} is not in 1..={max}, the sequences that may run at once",
                    request.n
                ),
            ));
        }
        for (field, wanted) in [
            ("logprobs", request.logprobs),
            ("prompt_logprobs", request.prompt_logprobs),
        ] {
            if let Some(k) = wanted
                && k > self.vocab_size
            {
                let vocab = self.vocab_size;
                return Err(Error::invalid(
                    field,
                    format!("{k} exceeds the vocabulary of {vocab}"),
                ));
            }
        }
        if let Some(token) = request
            .stop_tokens
            .iter()
            .find(|t| **t as usize >= self.vocab_size)
        {
            return Err(self.out_of_vocabulary("stop_tokens", *token));
        }
        if request.stop.iter().any(String::is_empty) {
            return Err(Error::invalid(
                "stop",
                "an empty stop string would end every answer",
            ));
        }
        if !request.stop.is_empty() && !self.has_tokenizer {
            return Err(Error::invalid(
                "stop",
                "this model has no tokenizer, so there is no text to stop at; use stop_tokens",
            ));
        }
        match &request.prompt {
            Prompt::Tokens(tokens) => self.check_tokens(tokens),
            _ if !self.has_tokenizer => Err(Error::invalid(
                "prompt",
                "this model has no tokenizer; give the prompt as tokens",
            )),
            Prompt::Messages(messages) if messages.is_empty() => Err(Error::invalid(
                "prompt",
                "a conversation needs at least one message",
            )),
            _ => Ok(()),
        }
    }

    fn check_tokens(&self, tokens: &[TokenId]) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::invalid(
                "prompt",
                "empty; the model needs at least one token",
            ));
        }
        if let Some(token) = tokens
            .iter()
            .find(|token| **token as usize >= self.vocab_size)
        {
            return Err(self.out_of_vocabulary("prompt", *token));
        }
        // The last token of a sequence is never fed back, but one must be generated.
        let limit = self.max_len - 1;
        if tokens.len() > limit {
            let limited_by = self.limited_by.clone();
            return Err(Error::PromptTooLong {
                tokens: tokens.len(),
                limit,
                limited_by,
            });
        }
        Ok(())
    }

    fn out_of_vocabulary(&self, field: &'static str, token: TokenId) -> Error {
        let vocab = self.vocab_size;
        Error::invalid(
            field,
            format!("token {token} is outside the vocabulary of {vocab}"),
        )
    }
}

/// The intake thread: runs until every engine handle is gone.
pub(super) fn run(
    jobs: &Receiver<Job>,
    shared: &Arc<Shared>,
    limits: &Limits,
    tokenizer: Option<&Arc<dyn Tokenizer>>,
) {
    for job in jobs {
        let (key, request, sink, arrival, span) = match job {
            Job::Request {
                key,
                request,
                sink,
                arrival,
                span,
            } => (key, request, sink, arrival, span),
            Job::Drain => {
                let _ = shared.commands.send(Command::Drain);
                continue;
            }
        };
        shared.in_intake.fetch_sub(1, Ordering::Relaxed);
        if sink.is_cancelled() {
            sink.fail(Error::Cancelled);
            continue;
        }
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            let tokens = encode(&request.prompt, tokenizer.map(|t| &**t))?;
            limits.check_tokens(&tokens)?;
            Ok::<_, Error>(tokens)
        }))
        .unwrap_or_else(|panic| {
            Err(Error::Panicked {
                part: "tokenizer",
                message: panic_message(&*panic),
            })
        });
        match prepared {
            Ok(tokens) => {
                let spec = Spec::new(*request, key, tokens, limits.max_len, arrival, span);
                // A send that fails drops the sink, which ends the stream.
                let _ = shared
                    .commands
                    .send(Command::Submit(Box::new(Prepared { spec, sink })));
            }
            Err(error) => {
                tracing::debug!(parent: &span, kind = error.kind(), "refused");
                sink.fail(error);
            }
        }
    }
    // The last handle is gone: what was accepted still finishes.
    let _ = shared.commands.send(Command::Drain);
}

fn encode(prompt: &Prompt, tokenizer: Option<&dyn Tokenizer>) -> Result<Vec<TokenId>, Error> {
    let none = || Error::invalid("prompt", "this model has no tokenizer");
    match prompt {
        Prompt::Tokens(tokens) => Ok(tokens.clone()),
        Prompt::Text(text) => Ok(tokenizer.ok_or_else(none)?.encode(text, true)?),
        Prompt::Messages(messages) => {
            let tokenizer = tokenizer.ok_or_else(none)?;
            let text = tokenizer.render(messages, &RenderOptions::default())?;
            Ok(tokenizer.encode(&text, false)?)
        }
    }
}
