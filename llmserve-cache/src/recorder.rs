//! Listening to an answer, to know at its end whether it may be told again.

use std::collections::BTreeSet;

use llmserve_core::Event;

use crate::policy::Policy;

/// Whether the answer so far may still be worth keeping.
pub(crate) struct Recorder {
    policy: Policy,
    /// Choices the request asked for.
    choices: usize,
    finished: BTreeSet<usize>,
    events: usize,
    /// Bytes the answer may have.
    room: usize,
    worth: bool,
}

impl Recorder {
    /// A recorder of an answer of `choices` choices and at most `room` bytes.
    pub(crate) fn new(policy: Policy, choices: usize, room: usize) -> Self {
        Self {
            policy,
            choices,
            finished: BTreeSet::new(),
            events: 0,
            room,
            worth: true,
        }
    }

    /// Takes note of the next event, with which the answer has `size` bytes. False from the first
    /// time on that the answer is not to be kept: it is too large, something cut it off, or its
    /// events are not in the order the contract promises, so that a replay would pass a fault on
    /// for ever.
    pub(crate) fn note(&mut self, event: &Event, size: usize) -> bool {
        let first = self.events == 0;
        self.events += 1;
        let sound = match event {
            Event::Started(_) => first,
            Event::Token(token) => !first && self.runs(token.index),
            Event::Text(text) => !first && self.runs(text.index),
            Event::Finished(finished) => {
                let runs = !first && self.runs(finished.index);
                self.finished.insert(finished.index);
                runs && self.policy.keeps(&finished.reason)
            }
            _ => false,
        };
        self.worth &= sound && size <= self.room;
        self.worth
    }

    /// The answer is not to be kept.
    pub(crate) fn give_up(&mut self) {
        self.worth = false;
    }

    /// Whether the answer may be kept, if the stream ends here: with every choice finished.
    pub(crate) fn complete(&self) -> bool {
        self.worth && self.events > 0 && self.finished.len() == self.choices
    }

    fn runs(&self, choice: usize) -> bool {
        choice < self.choices && !self.finished.contains(&choice)
    }
}
