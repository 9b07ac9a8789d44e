//! Events as bytes.
//!
//! A token of a few letters takes some 150 bytes as an [`Event`] with its text on the heap, and
//! about eight as a record; so answers are held as records, in memory too, and told from them.
//! The bytes are postcard's: integers of as few bytes as they need, text by its length.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{
    Event, FinishReason, Finished, Started, TextEvent, Timings, TokenEvent, TokenLogprobs, Usage,
};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

/// One event. The order of variants and fields is the format: see
/// [`FORMAT`](crate::entry::FORMAT).
#[derive(Serialize, Deserialize)]
enum Record<'a> {
    Started {
        prompt_ids: Cow<'a, [u32]>,
        prompt_logprobs: Option<Cow<'a, [TokenLogprobs]>>,
    },
    Token {
        index: usize,
        id: u32,
        text: &'a str,
        logprobs: Option<Cow<'a, TokenLogprobs>>,
    },
    Text {
        index: usize,
        text: &'a str,
    },
    Finished {
        index: usize,
        reason: Cow<'a, FinishReason>,
        text: &'a str,
        usage: Usage,
        queue: Duration,
        time_to_first_token: Duration,
        latency: Duration,
    },
}

/// Appends `event`. False, and nothing appended: it is of a kind this crate does not know.
pub(crate) fn write(event: &Event, out: &mut Vec<u8>) -> bool {
    let record = match event {
        Event::Started(started) => Record::Started {
            prompt_ids: Cow::Borrowed(&started.prompt_ids),
            prompt_logprobs: started.prompt_logprobs.as_deref().map(Cow::Borrowed),
        },
        Event::Token(token) => Record::Token {
            index: token.index,
            id: token.id,
            text: &token.text,
            logprobs: token.logprobs.as_ref().map(Cow::Borrowed),
        },
        Event::Text(text) => Record::Text {
            index: text.index,
            text: &text.text,
        },
        Event::Finished(finished) => Record::Finished {
            index: finished.index,
            reason: Cow::Borrowed(&finished.reason),
            text: &finished.text,
            usage: finished.usage,
            queue: finished.timings.queue,
            time_to_first_token: finished.timings.time_to_first_token,
            latency: finished.timings.latency,
        },
        _ => return false,
    };
    let before = out.len();
    let written = postcard::serialize_with_flavor(&record, Appended(&mut *out)).is_ok();
    if !written {
        out.truncate(before);
    }
    written
}

/// Appends many bytes at a time, where an `Extend` would be fed one by one.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// The event that `bytes` begin with, and how many of them it takes. None: they begin with none.
pub(crate) fn read(bytes: &[u8]) -> Option<(Event, usize)> {
    let (record, rest) = postcard::take_from_bytes::<Record<'_>>(bytes).ok()?;
    let event = match record {
        Record::Started {
            prompt_ids,
            prompt_logprobs,
        } => Event::Started(Started {
            prompt_ids: Arc::from(&*prompt_ids),
            prompt_logprobs: prompt_logprobs.map(|all| Arc::from(all.into_owned())),
        }),
        Record::Token {
            index,
            id,
            text,
            logprobs,
        } => Event::Token(TokenEvent {
            index,
            id,
            text: text.to_owned(),
            logprobs: logprobs.map(Cow::into_owned),
        }),
        Record::Text { index, text } => Event::Text(TextEvent {
            index,
            text: text.to_owned(),
        }),
        Record::Finished {
            index,
            reason,
            text,
            usage,
            queue,
            time_to_first_token,
            latency,
        } => Event::Finished(Finished {
            index,
            reason: reason.into_owned(),
            text: text.to_owned(),
            usage,
            timings: Timings {
                queue,
                time_to_first_token,
                latency,
            },
        }),
    };
    Some((event, bytes.len() - rest.len()))
}
