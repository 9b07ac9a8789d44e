//! Where an answer came from.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::answer::Answer;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// The inner service ran for this request.
    Model,
    /// The inner service ran, for an equal request that was there first.
    Joined,
    /// An equal request had it.
    Exact {
        /// How long ago it was stored.
        age: Duration,
    },
    /// A request that means the same had it.
    Semantic {
        /// Cosine between the two last user turns.
        similarity: f32,
        /// How long ago it was stored.
        age: Duration,
    },
    /// The request took no part.
    Bypassed,
}

impl Source {
    /// A word for labels and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Source::Model => "model",
            Source::Joined => "joined",
            Source::Exact { .. } => "exact",
            Source::Semantic { .. } => "semantic",
            Source::Bypassed => "bypassed",
        }
    }
}

/// Tells where one request's answer came from, as soon as that is known: at the latest with the
/// stream's first event.
///
/// ```
/// use llmserve_cache::{CacheLayer, Source};
/// use llmserve_core::Request;
/// # use llmserve_core::{Error, EventStream, Generate};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let cached = CacheLayer::new(Engine);
/// let (stream, trace) = cached.generate_traced(Request::text("Hi"));
/// let _ = stream.wait();
/// assert_eq!(trace.source(), Some(Source::Model));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<OnceLock<Source>>);

impl Trace {
    /// Where the answer comes from; none while that is open.
    pub fn source(&self) -> Option<Source> {
        self.0.get().copied()
    }

    pub(crate) fn set(&self, source: Source) {
        // A listener that had to start over has joined before it ran: the first counts.
        let _ = self.0.set(source);
    }
}

/// An answer that needs no run.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) answer: Answer,
    pub(crate) source: Source,
}
