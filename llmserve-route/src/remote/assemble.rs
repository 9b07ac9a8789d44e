//! From an endpoint's pieces to events that keep every promise an engine's events keep.

use std::collections::VecDeque;
use std::time::Duration;

use llmserve_core::{
    Event, FinishReason, Finished, Prompt, Request, Started, TextEvent, Timings, TokenEvent, Usage,
};

use super::piece::{Part, Piece, Used};

/// An endpoint that breaks its own protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// Adds up the pieces of one answer.
///
/// [`Event::Started`] waits for the first token or text: what comes before it (who speaks, that
/// the request was read) is nothing that another endpoint could not begin anew.
/// [`Event::Finished`] waits for the usage, which comes last.
pub(super) struct Assembler {
    started: bool,
    prompt: Started,
    /// The prompt's tokens, where the request counts them.
    prompt_tokens: usize,
    resumed: usize,
    choices: Vec<Choice>,
    used: Used,
}

#[derive(Default)]
struct Choice {
    ids: usize,
    first: Option<Duration>,
    /// Why and when, and with which last text.
    end: Option<(FinishReason, Duration, String)>,
    told: bool,
}

impl Assembler {
    pub(super) fn new(request: &Request) -> Self {
        let prompt_tokens = match &request.prompt {
            Prompt::Tokens(ids) => ids.len(),
            _ => 0,
        };
        let mut choices = Vec::new();
        choices.resize_with(request.n, Choice::default);
        Self {
            started: false,
            prompt: Started::default(),
            prompt_tokens,
            resumed: request.resume.len(),
            choices,
            used: Used::default(),
        }
    }

    /// Whether a token or text has come.
    pub(super) fn has_started(&self) -> bool {
        self.started
    }

    /// Whether all choices have ended, told or not.
    pub(super) fn has_ended(&self) -> bool {
        let mut choices = self.choices.iter();
        choices.all(|choice| choice.end.is_some() || choice.told)
    }

    /// Whether all choices have ended and been told.
    pub(super) fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.told)
    }

    /// Adds a piece that came `now` after the call; appends its events. Says whether it brought a
    /// token, a text or an end.
    ///
    /// # Errors
    /// [`Broken`].
    pub(super) fn add(
        &mut self,
        piece: Piece,
        now: Duration,
        out: &mut VecDeque<Event>,
    ) -> Result<bool, Broken> {
        if let Some(ids) = piece.prompt_ids {
            self.prompt_tokens = ids.len();
            self.prompt.prompt_ids = ids.into();
        }
        self.used.update(piece.used);
        let mut progress = false;
        for part in piece.parts {
            progress |= self.part(part, now, out)?;
        }
        Ok(progress)
    }

    fn part(
        &mut self,
        part: Part,
        now: Duration,
        out: &mut VecDeque<Event>,
    ) -> Result<bool, Broken> {
        let Part {
            index,
            text,
            ids,
            logprobs,
            finish,
        } = part;
        if text.is_empty() && ids.is_empty() && finish.is_none() {
            return Ok(false);
        }
        let Some(choice) = self.choices.get_mut(index) else {
            return Err(Broken("a choice that was not asked for"));
        };
        if choice.end.is_some() || choice.told {
            return Err(Broken("more of a choice that had ended"));
        }
        if !std::mem::replace(&mut self.started, true) {
            out.push_back(Event::Started(std::mem::take(&mut self.prompt)));
        }
        choice.first.get_or_insert(now);
        choice.ids += ids.len();
        let mut text = text;
        if let Some((&last, before)) = ids.split_last() {
            let mut logprobs = logprobs.into_iter();
            // Which of them the text came with is not said: with the last it is certain.
            for &id in before {
                out.push_back(Event::Token(TokenEvent {
                    index,
                    id,
                    text: String::new(),
                    logprobs: logprobs.next(),
                }));
            }
            out.push_back(Event::Token(TokenEvent {
                index,
                id: last,
                text: std::mem::take(&mut text),
                logprobs: logprobs.next(),
            }));
        } else if finish.is_none() {
            out.push_back(Event::Text(TextEvent {
                index,
                text: std::mem::take(&mut text),
            }));
        }
        choice.end = finish.map(|reason| (reason, now, text));
        Ok(true)
    }

    /// The endpoint has said all; appends the ends.
    ///
    /// # Errors
    /// [`Broken`] where a choice has not ended.
    pub(super) fn end(&mut self, out: &mut VecDeque<Event>) -> Result<(), Broken> {
        if self.choices.iter().any(|choice| choice.end.is_none()) {
            return Err(Broken("the answer broke off"));
        }
        self.tell_ends(out);
        Ok(())
    }

    /// The deadline has passed, `now` after the call: what has not ended ends.
    pub(super) fn cut(&mut self, now: Duration, out: &mut VecDeque<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            out.push_back(Event::Started(std::mem::take(&mut self.prompt)));
        }
        for choice in &mut self.choices {
            let end = || (FinishReason::Deadline, now, String::new());
            choice.end.get_or_insert_with(end);
        }
        self.tell_ends(out);
    }

    fn tell_ends(&mut self, out: &mut VecDeque<Event>) {
        let prompt_tokens = self.used.prompt.unwrap_or(self.prompt_tokens);
        let alone = self.choices.len() == 1;
        let with_ids = self.choices.iter().any(|choice| choice.ids > 0);
        for (index, choice) in self.choices.iter_mut().enumerate() {
            let Some((reason, latency, text)) = choice.end.take() else {
                continue;
            };
            choice.told = true;
            let completion_tokens = match self.used.completion {
                Some(total) if alone => total,
                // One total for all, and no ids to say whose they are: the first has them.
                Some(total) if !with_ids => total * usize::from(index == 0),
                _ => self.resumed + choice.ids,
            };
            let usage = Usage {
                prompt_tokens,
                cached_tokens: self.used.cached.unwrap_or(0),
                completion_tokens,
            };
            let timings = Timings {
                queue: Duration::ZERO,
                time_to_first_token: choice.first.unwrap_or(latency),
                latency,
            };
            out.push_back(Event::Finished(Finished {
                index,
                reason,
                text,
                usage,
                timings,
            }));
        }
    }
}
