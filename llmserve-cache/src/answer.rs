//! A recorded answer.

use llmserve_core::{Event, FinishReason, TokenLogprobs};

/// The events of one complete answer, as they came.
///
/// ```
/// use llmserve_cache::Answer;
/// use llmserve_core::{Event, Started};
/// let answer = Answer::new(vec![Event::Started(Started::default())]);
/// assert_eq!(answer.events().len(), 1);
/// assert!(answer.size() >= size_of::<Event>());
/// ```
#[derive(Clone)]
pub struct Answer {
    events: Box<[Event]>,
    size: usize,
}

impl Answer {
    /// Takes the events of an answer. Whether they are a whole one is the caller's to know.
    pub fn new(events: Vec<Event>) -> Self {
        Self {
            size: events.iter().map(event_size).sum(),
            events: events.into_boxed_slice(),
        }
    }

    /// The events, in order. The timings in them are those of the run that made them.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Bytes of memory it takes, to within the allocator's rounding.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl std::fmt::Debug for Answer {
    /// Sizes only: answers do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("events", &self.events.len())
            .field("size", &self.size)
            .finish()
    }
}

/// Bytes of memory an event takes, its heap included.
pub(crate) fn event_size(event: &Event) -> usize {
    let heap = match event {
        Event::Started(started) => {
            let logprobs = started.prompt_logprobs.as_deref().unwrap_or_default();
            size_of_val(&*started.prompt_ids)
                + size_of_val(logprobs)
                + logprobs.iter().map(top_size).sum::<usize>()
        }
        Event::Token(token) => token.text.capacity() + token.logprobs.as_ref().map_or(0, top_size),
        Event::Text(text) => text.text.capacity(),
        Event::Finished(finished) => {
            let reason = match &finished.reason {
                FinishReason::StopString(text) | FinishReason::Other(text) => text.capacity(),
                _ => 0,
            };
            finished.text.capacity() + reason
        }
        // A kind this crate does not know is never recorded.
        _ => 0,
    };
    size_of::<Event>() + heap
}

fn top_size(logprobs: &TokenLogprobs) -> usize {
    logprobs.top.capacity() * size_of::<(u32, f32)>()
}
