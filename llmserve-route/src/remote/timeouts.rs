//! How long an endpoint may take.

use std::time::Duration;

/// Limits on the parts of an answer; [`TimedOut`](llmserve_core::Error::TimedOut) names the one
/// that was reached.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::remote::Timeouts;
/// let timeouts = Timeouts::default().first_token(Duration::from_secs(5));
/// assert_eq!(timeouts.connect, Duration::from_secs(5));
/// assert_eq!(timeouts.total, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a connection, TLS included; 5 s by default. No matter where one is open already.
    pub connect: Duration,
    /// From the request to the first token, connection and queue included; 120 s by default.
    pub first_token: Duration,
    /// From one token to the next, while the reader takes them; 30 s by default.
    pub between_tokens: Duration,
    /// For the whole answer, a slow reader included; none by default.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(120),
            between_tokens: Duration::from_secs(30),
            total: None,
        }
    }
}

/// Setters: each replaces the field of its name.
impl Timeouts {
    /// See [`Timeouts::connect`].
    pub fn connect(mut self, limit: Duration) -> Self {
        self.connect = limit;
        self
    }

    /// See [`Timeouts::first_token`].
    pub fn first_token(mut self, limit: Duration) -> Self {
        self.first_token = limit;
        self
    }

    /// See [`Timeouts::between_tokens`].
    pub fn between_tokens(mut self, limit: Duration) -> Self {
        self.between_tokens = limit;
        self
    }

    /// See [`Timeouts::total`].
    pub fn total(mut self, limit: Duration) -> Self {
        self.total = Some(limit);
        self
    }
}
