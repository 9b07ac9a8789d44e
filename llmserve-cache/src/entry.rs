//! What a store keeps: an answer, what it answers, and how long it holds.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::answer::Answer;
use crate::epoch::Stamp;
use crate::key::Key;

/// Changes whenever the bytes below mean something else, so that what another version wrote is
/// skipped and never misread.
pub(crate) const FORMAT: u32 = 1;

/// The first bytes of every entry, before its format.
const MAGIC: [u8; 4] = *b"lsca";

/// Magic, format, checksum.
const PREAMBLE: usize = 4 + 4 + 8;

/// An answer as a store keeps it. Cheap to clone.
///
/// Stores outside this process keep [`to_bytes`](Self::to_bytes): a magic number, the format's
/// version, an XXH3-64 checksum of the rest, and the rest with the key's bytes in full.
/// [`from_bytes`](Self::from_bytes) gives back an entry, or says why the bytes are none.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::{Answer, Entry, Key, Stamp, Unusable};
/// use llmserve_core::{Event, Request, Started};
///
/// let key = Arc::new(Key::new("", &Request::text("Hi")).expect("cacheable"));
/// let answer = Answer::new(&[Event::Started(Started::default())]).expect("known events");
/// let mut bytes = Entry::new(key.clone(), answer.clone(), Stamp::default()).to_bytes();
/// assert_eq!(Entry::from_bytes(&key, &bytes)?.answer, answer);
///
/// *bytes.last_mut().unwrap() ^= 1;
/// assert_eq!(Entry::from_bytes(&key, &bytes).err(), Some(Unusable::Damaged));
/// # Ok::<(), Unusable>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// What it answers.
    pub key: Arc<Key>,
    /// The answer.
    pub answer: Answer,
    /// Of what it was true: see [`Epochs`](crate::Epochs).
    pub stamp: Stamp,
    /// How long ago it was stored.
    pub age: Duration,
    /// How long from now it may be given out; none is for ever.
    pub ttl: Option<Duration>,
}

/// Why bytes are no entry. A reason for counters: to whoever asks, it is a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// It does not begin as entries do.
    #[error("not an entry")]
    Foreign,
    /// Another version of this crate wrote it.
    #[error("written in format {0}")]
    Format(u32),
    /// The checksum is of something else, or the bytes end early.
    #[error("damaged")]
    Damaged,
    /// It answers another request, whose key has the same hash.
    #[error("another key's")]
    OtherKey,
    /// Its time is over.
    #[error("expired")]
    Expired,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    stamp: u64,
    /// Milliseconds since 1970, by the writer's clock.
    stored: u64,
    expires: Option<u64>,
    key: &'a [u8],
}

impl Entry {
    /// An entry just made, that holds for ever.
    pub fn new(key: Arc<Key>, answer: Answer, stamp: Stamp) -> Self {
        Self {
            key,
            answer,
            stamp,
            age: Duration::ZERO,
            ttl: None,
        }
    }

    /// The same, to be given out for so long.
    pub fn ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }

    /// Bytes of memory it takes: key and answer.
    pub fn size(&self) -> usize {
        self.key.bytes().len() + self.answer.size()
    }

    /// The entry for a place outside this process.
    pub fn to_bytes(&self) -> Vec<u8> {
        let now = unix_millis();
        let header = Header {
            stamp: self.stamp.0,
            stored: now.saturating_sub(millis(self.age)),
            expires: self.ttl.map(|ttl| now.saturating_add(millis(ttl))),
            key: self.key.bytes(),
        };
        let mut bytes = Vec::with_capacity(PREAMBLE + 40 + self.size());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        // Writing numbers and bytes to memory cannot fail.
        let mut bytes = postcard::to_extend(&header, bytes).unwrap_or_default();
        self.answer.write(&mut bytes);
        if let Some((preamble, rest)) = bytes.split_at_mut_checked(PREAMBLE) {
            preamble[8..].copy_from_slice(&xxh3_64(rest).to_le_bytes());
        }
        bytes
    }

    /// The entry under `key` that `bytes` hold.
    ///
    /// # Errors
    /// [`Unusable`]; whoever asked has a miss.
    pub fn from_bytes(key: &Arc<Key>, bytes: &[u8]) -> Result<Self, Unusable> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(Unusable::Foreign)?;
        let (format, rest) = rest.split_first_chunk().ok_or(Unusable::Damaged)?;
        let format = u32::from_le_bytes(*format);
        if format != FORMAT {
            return Err(Unusable::Format(format));
        }
        let (checksum, rest) = rest.split_first_chunk().ok_or(Unusable::Damaged)?;
        if u64::from_le_bytes(*checksum) != xxh3_64(rest) {
            return Err(Unusable::Damaged);
        }
        let (header, body) =
            postcard::take_from_bytes::<Header<'_>>(rest).map_err(|_| Unusable::Damaged)?;
        if header.key != key.bytes() {
            return Err(Unusable::OtherKey);
        }
        let now = unix_millis();
        // By a clock that was set back nothing lasts longer than it was stored for.
        let left = |expires: u64| expires.saturating_sub(now.max(header.stored));
        let ttl = match header.expires.map(left) {
            Some(0) => return Err(Unusable::Expired),
            left => left.map(Duration::from_millis),
        };
        Ok(Self {
            key: key.clone(),
            answer: Answer::parse(body).ok_or(Unusable::Damaged)?,
            stamp: Stamp(header.stamp),
            age: Duration::from_millis(now.saturating_sub(header.stored)),
            ttl,
        })
    }
}

fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
