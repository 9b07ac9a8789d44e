//! A recorded answer.

mod log;
mod record;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Event, Started};

pub(crate) use log::{Cursor, Log, Summary};

/// The events of one complete answer, as they came. Cheap to clone.
///
/// ```
/// use llmserve_cache::Answer;
/// use llmserve_core::{Event, Started};
/// let answer = Answer::new(&[Event::Started(Started::default())]).expect("known events");
/// assert_eq!(answer.events().count(), 1);
/// assert!(answer.size() >= size_of::<Answer>());
/// ```
#[derive(Clone)]
pub struct Answer {
    started: Option<Started>,
    body: Arc<[u8]>,
    summary: Summary,
}

impl Answer {
    /// Takes the events of an answer. Whether they are a whole one is the caller's to know. None:
    /// an event is of a kind this crate does not know.
    pub fn new(events: &[Event]) -> Option<Self> {
        let mut log = Log::default();
        events
            .iter()
            .all(|event| log.push(event))
            .then(|| Self::from(&log))
    }

    /// The events, in order. The timings in them are those of the run that made them.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let mut cursor = Cursor::default();
        std::iter::from_fn(move || self.read(&mut cursor))
    }

    /// Bytes of memory it takes, to within the allocator's rounding.
    pub fn size(&self) -> usize {
        log::size(self.started.as_ref(), self.body.len())
    }

    /// Tokens that were generated for it, over all choices.
    pub fn tokens(&self) -> usize {
        self.summary.tokens
    }

    /// How long whoever made it took.
    pub fn took(&self) -> Duration {
        self.summary.took
    }

    pub(crate) fn cost(&self) -> Summary {
        self.summary
    }

    /// Whether nothing was said: what stands in the place of a forgotten answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.summary.events == 0
    }

    pub(crate) fn read(&self, cursor: &mut Cursor) -> Option<Event> {
        log::read(self.started.as_ref(), &self.body, cursor)
    }

    /// All of it, the prompt too.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if let Some(started) = &self.started {
            record::write(&Event::Started(started.clone()), out);
        }
        out.extend_from_slice(&self.body);
    }

    /// What [`write`](Self::write) wrote. None: the bytes are something else.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut summary = Summary::default();
        let mut started = None;
        let mut body = bytes;
        let mut at = 0;
        while at < bytes.len() {
            let (event, taken) = record::read(&bytes[at..])?;
            at += taken;
            summary.add(&event);
            if let (Event::Started(first), 1) = (event, summary.events) {
                started = Some(first);
                body = &bytes[at..];
            }
        }
        Some(Self {
            started,
            body: Arc::from(body),
            summary,
        })
    }
}

impl From<&Log> for Answer {
    fn from(log: &Log) -> Self {
        Self {
            started: log.started.clone(),
            body: Arc::from(&*log.body),
            summary: log.summary,
        }
    }
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        self.started == other.started && self.body == other.body
    }
}

impl std::fmt::Debug for Answer {
    /// Sizes only: answers do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("events", &self.summary.events)
            .field("size", &self.size())
            .finish()
    }
}
