//! Limits as a host writes them down.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The time a [`Rate`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Per {
    /// A second.
    Second,
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
}

impl Per {
    /// How long that is.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3_600,
            Per::Day => 86_400,
        })
    }

    /// `"requests a minute"` and the like.
    pub(super) const fn of_requests(self) -> &'static str {
        match self {
            Per::Second => "requests a second",
            Per::Minute => "requests a minute",
            Per::Hour => "requests an hour",
            Per::Day => "requests a day",
        }
    }

    pub(super) const fn of_tokens(self) -> &'static str {
        match self {
            Per::Second => "tokens a second",
            Per::Minute => "tokens a minute",
            Per::Hour => "tokens an hour",
            Per::Day => "tokens a day",
        }
    }
}

/// So many in so much time: a token bucket.
///
/// The bucket holds `burst`, is full at first, and is refilled steadily with `limit` for each
/// period. Over any time *t* no more than `burst + limit · t` pass.
///
/// ```
/// use llmserve_route::limits::{Per, Rate};
/// let rate = Rate::new(60, Per::Minute).burst(5);
/// assert_eq!((rate.limit, rate.burst), (60, Some(5)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rate {
    /// What a full period gives; at least 1.
    pub limit: u64,
    /// The period.
    pub per: Per,
    /// What may pass at once after a pause; at least 1. None: `limit`.
    #[serde(default)]
    pub burst: Option<u64>,
}

impl Rate {
    /// `limit` for each period, all of which may pass at once.
    pub const fn new(limit: u64, per: Per) -> Self {
        Self {
            limit,
            per,
            burst: None,
        }
    }

    /// Replaces [`Rate::burst`].
    pub const fn burst(mut self, burst: u64) -> Self {
        self.burst = Some(burst);
        self
    }

    pub(super) fn most_at_once(&self) -> u64 {
        self.burst.unwrap_or(self.limit)
    }
}

/// What one caller may ask for. Nothing is limited by default.
///
/// ```
/// use llmserve_route::limits::{Limit, Per, Rate};
/// let limit = Limit::default()
///     .requests(Rate::new(60, Per::Minute))
///     .tokens(Rate::new(100_000, Per::Minute))
///     .concurrent(8);
/// assert_eq!(limit.concurrent, Some(8));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limit {
    /// Requests.
    pub requests: Option<Rate>,
    /// Tokens, of prompts and answers.
    pub tokens: Option<Rate>,
    /// Requests at the same time; at least 1.
    pub concurrent: Option<usize>,
}

/// Setters: each replaces the field of its name.
impl Limit {
    /// See [`Limit::requests`].
    pub fn requests(mut self, rate: Rate) -> Self {
        self.requests = Some(rate);
        self
    }

    /// See [`Limit::tokens`].
    pub fn tokens(mut self, rate: Rate) -> Self {
        self.tokens = Some(rate);
        self
    }

    /// See [`Limit::concurrent`].
    pub fn concurrent(mut self, requests: usize) -> Self {
        self.concurrent = Some(requests);
        self
    }
}
