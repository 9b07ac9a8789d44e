//! How long a replica may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ReliabilityError;

/// How long a replica may say nothing. No limit by default: how long a prompt may take is known to
/// the host alone. (That of a connection is the endpoint's own.)
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::reliability::Timeouts;
/// let timeouts = Timeouts::default()
///     .first_token(Duration::from_secs(20))
///     .between_tokens(Duration::from_secs(5));
/// assert_eq!(timeouts.total, None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Timeouts {
    /// From a dispatch to the first event. Then another replica is tried.
    pub first_token: Option<Duration>,
    /// From one event to the next. Then the answer goes on elsewhere, where it can, or fails.
    pub between_tokens: Option<Duration>,
    /// From the call to the end, whoever answers. Then the request fails.
    pub total: Option<Duration>,
    /// From when a replica is asked, or was last heard, until it is asked for nothing more where
    /// there is somebody else: requests that it has wait on. It is asked again when it is heard, and
    /// to see whether it is, each time that its silence has doubled. Right is several times what a
    /// step of its engine takes.
    pub avoid_after: Option<Duration>,
}

/// Setters: each replaces the field of its name.
impl Timeouts {
    /// See [`Timeouts::first_token`].
    pub fn first_token(mut self, limit: Duration) -> Self {
        self.first_token = Some(limit);
        self
    }

    /// See [`Timeouts::between_tokens`].
    pub fn between_tokens(mut self, limit: Duration) -> Self {
        self.between_tokens = Some(limit);
        self
    }

    /// See [`Timeouts::total`].
    pub fn total(mut self, limit: Duration) -> Self {
        self.total = Some(limit);
        self
    }

    /// See [`Timeouts::avoid_after`].
    pub fn avoid_after(mut self, silence: Duration) -> Self {
        self.avoid_after = Some(silence);
        self
    }
}

impl Timeouts {
    pub(crate) fn check(&self) -> Result<(), ReliabilityError> {
        for (field, limit) in [
            ("Timeouts::first_token", self.first_token),
            ("Timeouts::between_tokens", self.between_tokens),
            ("Timeouts::total", self.total),
            ("Timeouts::avoid_after", self.avoid_after),
        ] {
            if limit == Some(Duration::ZERO) {
                let reason = "nobody could answer in no time; leave it out for no limit";
                return Err(ReliabilityError::new(field, Duration::ZERO, reason));
            }
        }
        Ok(())
    }
}
