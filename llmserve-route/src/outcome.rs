//! What became of a request at a replica.

use std::time::Duration;

use llmserve_core::{Error, Time};

/// The first event of a request at a replica came: its prompt is computed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Answering {
    /// From the dispatch to the event.
    pub after: Duration,
    /// When, by the router's clock.
    pub now: Time,
    /// What the strategy's [`dispatched`](crate::Strategy::dispatched) gave to remember.
    pub credit: u64,
}

/// How, and after how long, a request at a replica ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outcome<'a> {
    /// How.
    pub end: End<'a>,
    /// When, by the router's clock.
    pub now: Time,
    /// From the dispatch to the first event; none where there was no event.
    pub answering: Option<Duration>,
    /// From the dispatch to the end.
    pub duration: Duration,
    /// What the availability's [`dispatched`](crate::Availability::dispatched) gave to remember.
    pub permit: u64,
    /// What the strategy's [`dispatched`](crate::Strategy::dispatched) gave to remember.
    pub credit: u64,
}

/// The ways a request can end.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum End<'a> {
    /// Every choice finished.
    Finished,
    /// The replica failed: overloaded, shut down, unreachable, too slow, or a panic.
    Failed(&'a Error),
    /// The request was refused, rightly. Says nothing about the replica.
    Refused(&'a Error),
    /// Nobody wanted to know any more: the stream was dropped, or ended without an end. Says
    /// nothing about the replica.
    Abandoned,
}
