//! Listening to an answer, to know at its end whether it may be told again.

use std::collections::BTreeSet;

use llmserve_core::{Event, FinishReason};

use crate::answer::{Answer, event_size};

/// An answer so far, as long as it may still be worth keeping.
pub(crate) struct Recorder {
    events: Vec<Event>,
    /// Choices the request asked for.
    choices: usize,
    finished: BTreeSet<usize>,
    /// Bytes the answer may still grow by.
    room: usize,
}

impl Recorder {
    /// A recorder of an answer of `choices` choices and at most `room` bytes.
    pub(crate) fn new(choices: usize, room: usize) -> Self {
        Self {
            events: Vec::new(),
            choices,
            finished: BTreeSet::new(),
            room,
        }
    }

    /// Takes note of the next event. None: the answer will not be kept. It is too large, a
    /// deadline cut it off, or its events are not in the order the contract promises, so a replay
    /// would pass a fault on for ever.
    pub(crate) fn note(mut self, event: &Event) -> Option<Self> {
        let first = self.events.is_empty();
        let in_order = match event {
            Event::Started(_) => first,
            Event::Token(token) => !first && self.runs(token.index),
            Event::Text(text) => !first && self.runs(text.index),
            Event::Finished(finished) => {
                let runs = !first && self.runs(finished.index);
                self.finished.insert(finished.index);
                runs && is_the_answers_own_end(&finished.reason)
            }
            _ => false,
        };
        if !in_order {
            return None;
        }
        // The copy is measured: it has no spare capacity.
        let event = event.clone();
        self.room = self.room.checked_sub(event_size(&event))?;
        self.events.push(event);
        Some(self)
    }

    /// The answer, if the stream ended where an answer does: with every choice finished.
    pub(crate) fn complete(self) -> Option<Answer> {
        let whole = !self.events.is_empty() && self.finished.len() == self.choices;
        whole.then(|| Answer::new(self.events))
    }

    fn runs(&self, choice: usize) -> bool {
        choice < self.choices && !self.finished.contains(&choice)
    }
}

/// Whether a run without hurry would have ended the same way. A reason this crate does not know
/// counts as none.
fn is_the_answers_own_end(reason: &FinishReason) -> bool {
    matches!(
        reason,
        FinishReason::Eos(_)
            | FinishReason::StopToken(_)
            | FinishReason::StopString(_)
            | FinishReason::Complete
            | FinishReason::Stop
            | FinishReason::Length
    )
}
