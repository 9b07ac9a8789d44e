//! An answer while it comes: what has been said so far, and where each listener is in it.

use std::time::Duration;

use llmserve_core::{Event, Started};

use super::record;

/// Events in the order they came.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) started: Option<Started>,
    pub(crate) body: Vec<u8>,
    pub(crate) summary: Summary,
}

/// What an answer cost whoever made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) events: usize,
    /// Tokens generated, over all choices.
    pub(crate) tokens: usize,
    /// The slowest choice's time.
    pub(crate) took: Duration,
}

impl Summary {
    pub(crate) fn add(&mut self, event: &Event) {
        self.events += 1;
        if let Event::Finished(finished) = event {
            self.tokens = self.tokens.saturating_add(finished.usage.completion_tokens);
            self.took = self.took.max(finished.timings.latency);
        }
    }
}

/// How far a listener has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Events heard.
    pub(crate) events: usize,
    offset: usize,
}

impl Log {
    /// Adds an event. False: it is of a kind this crate does not know, and the log is unchanged.
    pub(crate) fn push(&mut self, event: &Event) -> bool {
        match event {
            // The prompt can be long, and is shared already.
            Event::Started(started) if self.summary.events == 0 => {
                self.started = Some(started.clone());
            }
            _ if record::write(event, &mut self.body) => {}
            _ => return false,
        }
        self.summary.add(event);
        true
    }

    /// The event at `cursor`, which moves on; none at the end.
    pub(crate) fn read(&self, cursor: &mut Cursor) -> Option<Event> {
        read(self.started.as_ref(), &self.body, cursor)
    }

    /// A cursor behind everything said so far.
    pub(crate) fn end(&self) -> Cursor {
        Cursor {
            events: self.summary.events,
            offset: self.body.len(),
        }
    }

    /// Bytes of memory the answer would take.
    pub(crate) fn size(&self) -> usize {
        size(self.started.as_ref(), self.body.len())
    }
}

pub(super) fn read(started: Option<&Started>, body: &[u8], cursor: &mut Cursor) -> Option<Event> {
    if cursor.events == 0
        && let Some(started) = started
    {
        cursor.events = 1;
        return Some(Event::Started(started.clone()));
    }
    let (event, taken) = record::read(body.get(cursor.offset..)?)?;
    cursor.events += 1;
    cursor.offset += taken;
    Some(event)
}

pub(super) fn size(started: Option<&Started>, body: usize) -> usize {
    let logprobs = started.and_then(|started| started.prompt_logprobs.as_deref());
    let logprobs = logprobs.unwrap_or_default();
    size_of::<super::Answer>()
        + started.map_or(0, |started| size_of_val(&*started.prompt_ids))
        + size_of_val(logprobs)
        + logprobs
            .iter()
            .map(|logprobs| logprobs.top.capacity() * size_of::<(u32, f32)>())
            .sum::<usize>()
        + body
}
