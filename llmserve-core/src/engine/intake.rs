//! From a request to tokens, off the caller's thread and off the engine's.
//!
//! Encoding a long prompt takes milliseconds: neither an async host's executor nor the step loop
//! should pay for it. Two threads, each in the order of arrival: one for short prompts, one for long
//! texts. Prompts that are tokens already pass them by. Behind them a third compiles constraints
//! that are new.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::channel::Sink;
use super::compiling::{Feeder, Waiting};
use super::grammars::Grammars;
use super::prefixes::{Asked, Found};
use super::probe;
use super::request::{Ends, Prepared, Spec};
use super::{Command, Place, Shared};
use crate::contract::clock::Time;
use crate::contract::grammar::{Constraint, Grammar};
use crate::contract::prefix::{Keeping, Prefix};
use crate::contract::tokenizer::{RenderOptions, Tokenizer};
use crate::error::{Error, panic_message};
use crate::ids::TokenId;
use crate::request::{Prompt, Request};
use crate::sync::Ordering;

/// What an intake thread is told.
pub(super) enum Job {
    Request(Box<Intake>),
    /// A prefix to find the tokens of.
    Keep(Box<Asked>),
    /// Everything that was accepted on this lane has passed. Goes on to the other lane, to the queue
    /// of those that wait for grammars, and from there to the engine thread.
    Drain(Sender<Job>),
    /// The end of a drain's way.
    Drained,
}

/// A request whose prompt is to be encoded.
pub(super) struct Intake {
    pub(super) key: u64,
    pub(super) request: Request,
    pub(super) sink: Sink,
    pub(super) place: Place,
    pub(super) ends: Ends,
    pub(super) arrival: Time,
    pub(super) span: tracing::Span,
}

/// Most bytes of a constraint.
const MAX_CONSTRAINT: usize = 1 << 20;

/// Bytes of a text that takes the lane of long ones.
const LONG: usize = 64 << 10;

/// Whether encoding a prompt takes so long that others should not wait for it.
pub(super) fn is_long(prompt: &Prompt) -> bool {
    match prompt {
        Prompt::Text(text) => text.len() > LONG,
        Prompt::Messages(messages) => {
            messages.iter().map(|m| m.content.len()).sum::<usize>() > LONG
        }
        Prompt::Tokens(_) => false,
    }
}

/// What a request is checked against.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) vocab_size: usize,
    /// Most tokens of a sequence: the model's context or the KV cache, whichever is smaller.
    pub(super) max_len: usize,
    /// Which of the two it is.
    pub(super) limited_by: String,
    /// Tokens of a KV block.
    pub(super) block_size: usize,
    pub(super) max_num_seqs: usize,
    pub(super) max_intake: usize,
    pub(super) has_tokenizer: bool,
    /// Whether constraints can be compiled.
    pub(super) has_grammars: bool,
}

impl Limits {
    /// Checks all that can be checked without encoding the prompt.
    pub(super) fn check(&self, request: &Request) -> Result<(), Error> {
        request.sampling.validate(self.vocab_size)?;
        if request.max_tokens == Some(0) {
            return Err(Error::invalid_request(
                "max_tokens",
                "0 generates nothing; ask for at least 1",
            ));
        }
        if let Some(max) = request.max_tokens
            && request.min_tokens > max
        {
            let min = request.min_tokens;
            return Err(Error::invalid_request(
                "min_tokens",
                format!("{min} exceeds max_tokens {max}"),
            ));
        }
        if request.n == 0 || request.n > self.max_num_seqs {
            let max = self.max_num_seqs;
            return Err(Error::invalid_request(
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
                return Err(Error::invalid_request(
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
            return Err(Error::invalid_request(
                "stop",
                "an empty stop string would end every answer",
            ));
        }
        if !request.stop.is_empty() && !self.has_tokenizer {
            return Err(Error::invalid_request(
                "stop",
                "this model has no tokenizer, so there is no text to stop at; use stop_tokens",
            ));
        }
        if !request.resume.is_empty() {
            self.check_resume(request)?;
        }
        if let Some(constraint) = &request.constraint {
            self.check_constraint(constraint)?;
        }
        match &request.prompt {
            Prompt::Tokens(tokens) => self.check_tokens(tokens),
            _ if !self.has_tokenizer => Err(Error::invalid_request(
                "prompt",
                "this model has no tokenizer; give the prompt as tokens",
            )),
            Prompt::Messages(messages) if messages.is_empty() => Err(Error::invalid_request(
                "prompt",
                "a conversation needs at least one message",
            )),
            _ => Ok(()),
        }
    }

    /// Checks all of a prefix that can be checked without encoding it.
    pub(super) fn check_prefix(&self, prefix: &Prefix) -> Result<(), Error> {
        match &prefix.prompt {
            Prompt::Tokens(_) => Ok(()),
            _ if self.has_tokenizer => Ok(()),
            _ => Err(Error::invalid_request(
                "prompt",
                "this model has no tokenizer; give the prefix as tokens",
            )),
        }
    }

    fn check_resume(&self, request: &Request) -> Result<(), Error> {
        let invalid = |reason: String| Err(Error::invalid_request("resume", reason));
        let tokens = request.resume.len();
        if request.n != 1 {
            let n = request.n;
            return invalid(format!("one answer can be resumed, n is {n}"));
        }
        if request.prompt_logprobs.is_some() {
            return invalid("the prompt's logprobs came with the answer's beginning".to_owned());
        }
        if let Some(max) = request.max_tokens
            && tokens >= max
        {
            return invalid(format!(
                "{tokens} tokens leave nothing to generate of max_tokens {max}"
            ));
        }
        match request
            .resume
            .iter()
            .find(|t| **t as usize >= self.vocab_size)
        {
            Some(token) => Err(self.out_of_vocabulary("resume", *token)),
            None => Ok(()),
        }
    }

    fn check_constraint(&self, constraint: &Constraint) -> Result<(), Error> {
        let invalid = |reason: String| Err(Error::invalid_request("constraint", reason));
        if !self.has_grammars {
            return invalid(
                "this engine has no grammar compiler: give one with EngineBuilder::grammars"
                    .to_owned(),
            );
        }
        let len = constraint.text_len();
        if len > MAX_CONSTRAINT {
            return invalid(format!("{len} bytes exceed the limit of {MAX_CONSTRAINT}"));
        }
        match constraint {
            Constraint::Choice(texts) if texts.is_empty() => {
                invalid("no text to choose from".to_owned())
            }
            Constraint::Choice(texts) if texts.iter().any(String::is_empty) => {
                invalid("an empty text is no answer".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_tokens(&self, tokens: &[TokenId]) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::invalid_request(
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
        self.check_len(tokens.len())
    }

    /// Checks the tokens known before the first is generated.
    pub(super) fn check_len(&self, tokens: usize) -> Result<(), Error> {
        // The last token of a sequence is never fed back, but one must be generated.
        let limit = self.max_len - 1;
        if tokens <= limit {
            return Ok(());
        }
        let limited_by = self.limited_by.clone();
        Err(Error::PromptTooLong {
            tokens,
            limit,
            limited_by,
        })
    }

    fn out_of_vocabulary(&self, field: &'static str, token: TokenId) -> Error {
        let vocab = self.vocab_size;
        Error::invalid_request(
            field,
            format!("token {token} is outside the vocabulary of {vocab}"),
        )
    }
}

/// What a lane's thread works with.
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) tokenizer: Option<Arc<dyn Tokenizer>>,
    /// None where there is no compiler.
    pub(super) grammars: Option<(Arc<Grammars>, Feeder)>,
}

impl Lane {
    /// Runs until every engine handle is gone.
    pub(super) fn run(self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                // A host's own parts are called and dropped in here. One that panics has lost its
                // request already: what is left of it is dropped on the way, and with it the
                // stream ended.
                Job::Request(job) => drop(catch_unwind(AssertUnwindSafe(|| self.prepare(job)))),
                Job::Keep(asked) => drop(catch_unwind(AssertUnwindSafe(|| self.keep(*asked)))),
                Job::Drain(next) => {
                    if next.send(Job::Drained).is_err() {
                        self.drained();
                    }
                }
                Job::Drained => self.drained(),
            }
        }
    }

    /// What was accepted before a drain is in the engine thread's hands, or waits for a grammar.
    fn drained(&self) {
        match &self.grammars {
            Some((_, queue)) => queue.0.drain(),
            None => self.shared.drained(),
        }
    }

    /// Finds the tokens of a prefix, and hands their whole blocks to the engine thread.
    fn keep(&self, asked: Asked) {
        let Asked {
            key,
            prefix,
            guarded,
        } = asked;
        if guarded.is_gone() || self.shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let found = encoded(|| {
            let tokens = probe::common(&prefix, self.tokenizer.as_deref())?;
            if !tokens.is_empty() {
                self.limits.check_tokens(&tokens)?;
            }
            Ok(tokens)
        });
        let mut tokens = match found {
            Ok(tokens) => tokens,
            Err(error) => return guarded.close(Keeping::Failed(error)),
        };
        tokens.truncate(tokens.len() / self.limits.block_size * self.limits.block_size);
        if tokens.is_empty() {
            return guarded.close(Keeping::Ready { tokens: 0 });
        }
        let found = Found {
            key,
            tokens,
            tenant: prefix.tenant.map(Into::into),
            guarded,
        };
        // A send that fails drops the guarded side, which says why.
        let _ = self.shared.commands.send(Command::Keep(Box::new(found)));
    }

    fn prepare(&self, job: Box<Intake>) {
        let Some(job) = job.wanted(&self.shared) else {
            return;
        };
        let encoded = encoded(|| {
            let tokens = encode(&job.request.prompt, self.tokenizer.as_deref())?;
            self.limits.check_tokens(&tokens)?;
            self.limits
                .check_len(tokens.len() + job.request.resume.len())?;
            Ok(tokens)
        });
        let tokens = match encoded {
            Ok(tokens) => tokens,
            Err(error) => return job.refuse(error),
        };
        let (Some(constraint), Some((grammars, queue))) = (&job.request.constraint, &self.grammars)
        else {
            return job.submit(tokens, None, &self.shared, &self.limits);
        };
        match grammars.known(constraint) {
            Some(Ok(grammar)) => job.submit(tokens, Some(grammar), &self.shared, &self.limits),
            Some(Err(error)) => job.refuse(error),
            None => {
                let intake = job;
                if let Err((waiting, error)) = queue.0.push(Waiting { intake, tokens }) {
                    waiting.intake.refuse(error);
                }
            }
        }
    }
}

impl Intake {
    /// None for a request that nobody waits for any more.
    pub(super) fn wanted(self: Box<Self>, shared: &Shared) -> Option<Box<Self>> {
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        if self.sink.is_cancelled() {
            let _ = shared.commands.send(Command::CancelledBefore);
            self.sink.close();
            return None;
        }
        Some(self)
    }

    /// Hands it to the engine thread.
    pub(super) fn submit(
        self: Box<Self>,
        tokens: Vec<TokenId>,
        grammar: Option<Arc<dyn Grammar>>,
        shared: &Shared,
        limits: &Limits,
    ) {
        let Self {
            key,
            request,
            sink,
            place,
            ends,
            arrival,
            span,
        } = *self;
        let max_len = limits.max_len;
        let spec = Spec::new(request, key, tokens, grammar, max_len, arrival, span);
        // A send that fails drops the sink, which ends the stream.
        let prepared = Box::new(Prepared {
            spec,
            sink,
            place,
            ends,
        });
        let _ = shared.commands.send(Command::Submit(prepared));
    }

    pub(super) fn refuse(self: Box<Self>, error: Error) {
        tracing::debug!(parent: &self.span, kind = error.kind(), "refused");
        self.sink.fail(error);
    }
}

/// Lets accepted requests finish once the last lane's thread has ended, however it ended: the last
/// handle is gone.
pub(super) struct LastLane(pub(super) Arc<Shared>);

impl Drop for LastLane {
    fn drop(&mut self) {
        self.0.drained();
    }
}

/// What a tokenizer makes of something, with its panic as an error.
fn encoded(run: impl FnOnce() -> Result<Vec<TokenId>, Error>) -> Result<Vec<TokenId>, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        Err(Error::Panicked {
            part: "tokenizer",
            message: panic_message(&*panic),
        })
    })
}

pub(super) fn encode(
    prompt: &Prompt,
    tokenizer: Option<&dyn Tokenizer>,
) -> Result<Vec<TokenId>, Error> {
    let none = || Error::invalid_request("prompt", "this model has no tokenizer");
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
