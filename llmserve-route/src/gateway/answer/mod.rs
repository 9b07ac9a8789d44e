//! From events to OpenAI's objects, whole or piece by piece.

mod logprobs;
mod object;
mod sse;
mod usage;

use std::sync::Arc;

use llmserve_core::{Event, FinishReason, Response, Tokenizer};

use super::ask::Form;
use logprobs::{Logprobs, Naming};
use object::{Choice, Object, Said, StopReason};
use usage::Total;

pub(super) use sse::Telling;

/// Which of the two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}

impl Kind {
    pub(super) fn route(self) -> &'static str {
        match self {
            Kind::Completion => "/v1/completions",
            Kind::Chat => "/v1/chat/completions",
        }
    }

    fn object(self, piece: bool) -> &'static str {
        match (self, piece) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        }
    }
}

/// Tells one answer.
pub(super) struct Teller {
    kind: Kind,
    /// The answer's own name.
    id: String,
    /// Seconds since 1970.
    created: u64,
    form: Form,
    tokenizer: Option<Arc<dyn Tokenizer>>,
    /// Characters told of each choice.
    told: Vec<usize>,
    total: Total,
}

impl Teller {
    pub(super) fn new(
        kind: Kind,
        id: String,
        created: u64,
        form: Form,
        prompts: usize,
        tokenizer: Option<Arc<dyn Tokenizer>>,
    ) -> Self {
        Self {
            kind,
            id,
            created,
            told: vec![0; prompts * form.n],
            total: Total::new(prompts),
            form,
            tokenizer,
        }
    }

    /// The whole answer: `responses` are those of the prompts, in order.
    pub(super) fn whole(mut self, responses: &[Response]) -> Vec<u8> {
        let mut choices = Vec::new();
        for (prompt, response) in responses.iter().enumerate() {
            for (index, choice) in response.choices.iter().enumerate() {
                self.total.add(prompt, choice.usage);
                let said = match self.kind {
                    Kind::Completion => Said::text(&choice.text),
                    Kind::Chat => Said::message(&choice.text),
                };
                let mut told = Choice::new(prompt * self.form.n + index, said);
                if !choice.logprobs.is_empty() {
                    // Which of the text came with which token, only a stream says.
                    let names = self.naming();
                    let list = choice.logprobs.iter();
                    told.logprobs = Some(Logprobs::new(self.kind, &names, list, 0));
                }
                if self.form.token_ids {
                    told.token_ids = Some(&choice.ids);
                    if self.kind == Kind::Completion {
                        told.prompt_token_ids = Some(&response.started.prompt_ids);
                    }
                }
                if let Some(reason) = &choice.reason {
                    finish(&mut told, reason, &self.form);
                }
                choices.push(told);
            }
        }
        let mut object = self.object(false, &choices);
        if self.form.token_ids && self.kind == Kind::Chat {
            object.prompt_token_ids = responses.first().map(|first| &*first.started.prompt_ids);
        }
        object.usage = Some(Some(self.total.to_json()));
        object.to_vec()
    }

    /// Appends what `event` of a prompt's answer adds to the stream; nothing, if that is nothing.
    pub(super) fn piece(&mut self, prompt: usize, event: &Event, out: &mut Vec<u8>) {
        let first = prompt * self.form.n;
        let token_ids = self.form.token_ids;
        match event {
            Event::Started(started) => {
                let ids = token_ids.then_some(&*started.prompt_ids);
                match self.kind {
                    Kind::Chat => {
                        for index in first..first + self.form.n {
                            let choices = [Choice::new(index, Said::role())];
                            let mut object = self.object(true, &choices);
                            object.prompt_token_ids = ids.filter(|_| index == first);
                            event_of(&object, out);
                        }
                    }
                    Kind::Completion if token_ids => {
                        let mut choice = Choice::new(first, Said::text(""));
                        choice.prompt_token_ids = ids;
                        event_of(&self.object(true, &[choice]), out);
                    }
                    Kind::Completion => {}
                }
            }
            Event::Token(token) => {
                let index = first + token.index;
                if token.text.is_empty() && !token_ids && token.logprobs.is_none() {
                    return;
                }
                let mut choice = Choice::new(index, self.said(&token.text));
                let ids = [token.id];
                choice.token_ids = token_ids.then_some(&ids);
                if let Some(logprobs) = &token.logprobs {
                    let offset = self.told.get(index).copied().unwrap_or(0);
                    let list = std::iter::once(logprobs);
                    choice.logprobs = Some(Logprobs::new(self.kind, &self.naming(), list, offset));
                }
                event_of(&self.object(true, &[choice]), out);
                self.advance(index, &token.text);
            }
            Event::Text(text) => {
                let index = first + text.index;
                if !text.text.is_empty() {
                    let choice = Choice::new(index, self.said(&text.text));
                    event_of(&self.object(true, &[choice]), out);
                    self.advance(index, &text.text);
                }
            }
            Event::Finished(finished) => {
                let index = first + finished.index;
                self.total.add(prompt, finished.usage);
                let said = match (self.kind, finished.text.is_empty()) {
                    (Kind::Chat, true) => Said::nothing(),
                    _ => self.said(&finished.text),
                };
                let mut choice = Choice::new(index, said);
                finish(&mut choice, &finished.reason, &self.form);
                event_of(&self.object(true, &[choice]), out);
                self.advance(index, &finished.text);
            }
            // An event that a later version adds, and this one cannot tell.
            _ => {}
        }
    }

    /// Appends the end of the stream.
    pub(super) fn end(&self, out: &mut Vec<u8>) {
        if self.form.include_usage {
            let mut object = self.object(true, &[]);
            object.usage = Some(Some(self.total.to_json()));
            event_of(&object, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn object<'a>(&'a self, piece: bool, choices: &'a [Choice<'a>]) -> Object<'a> {
        Object {
            id: &self.id,
            object: self.kind.object(piece),
            created: self.created,
            model: &self.form.model,
            choices,
            prompt_token_ids: None,
            // A stream with usage has a null until the end.
            usage: self.form.include_usage.then_some(None),
        }
    }

    fn said<'a>(&self, text: &'a str) -> Said<'a> {
        match self.kind {
            Kind::Completion => Said::text(text),
            Kind::Chat => Said::delta(text),
        }
    }

    fn advance(&mut self, index: usize, text: &str) {
        if let Some(told) = self.told.get_mut(index) {
            *told += text.chars().count();
        }
    }

    fn naming(&self) -> Naming<'_> {
        match &self.tokenizer {
            Some(tokenizer) if !self.form.tokens_as_ids => Naming::Text(&**tokenizer),
            _ => Naming::Id,
        }
    }
}

fn finish<'a>(choice: &mut Choice<'a>, reason: &'a FinishReason, form: &Form) {
    choice.finish_reason = Some(reason.as_str());
    choice.stop_reason = match reason {
        FinishReason::StopToken(id) => Some(StopReason::Token(*id)),
        FinishReason::StopString(text) => Some(StopReason::Text(text)),
        _ => None,
    };
    choice.finish_detail = form.token_ids.then_some(reason);
}

/// Appends `object` as an event. JSON has no line breaks of its own.
fn event_of(object: &Object<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    object.write(out);
    out.extend_from_slice(b"\n\n");
}
