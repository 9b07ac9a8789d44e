//! When a replica is given a rest.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a replica is no longer asked, for how long, and how it comes back.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::health::BreakerConfig;
/// let config = BreakerConfig::default().consecutive(3).open_for(Duration::from_secs(2));
/// assert_eq!(config.consecutive, 3);
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BreakerConfig {
    /// Failures in a row that open it; at least 1. Default: 5.
    pub consecutive: u32,
    /// The part of the requests of a window that fail and thereby open it, over 0 and at most 1.
    /// Default: 0.5.
    pub failure_rate: f64,
    /// Requests that a window must have for its rate to count; at least 1. Default: 20.
    pub min_requests: u32,
    /// The window of the failure rate; not 0. Default: 60 s.
    pub window: Duration,
    /// How long it stays open the first time. Default: 5 s.
    pub open_for: Duration,
    /// How long at most: each time that it opens again without having closed, it is open for twice
    /// as long as before. Also what a replica's own `Retry-After` may claim. Default: 60 s.
    pub open_for_at_most: Duration,
    /// Requests let through at a time to see whether it has recovered; at least 1. Default: 1.
    pub probes: u32,
    /// How many of them must succeed for it to close; one that fails opens it again. At least 1.
    /// Default: 1.
    pub successes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive: 5,
            failure_rate: 0.5,
            min_requests: 20,
            window: Duration::from_secs(60),
            open_for: Duration::from_secs(5),
            open_for_at_most: Duration::from_secs(60),
            probes: 1,
            successes: 1,
        }
    }
}

/// What is wrong with a [`BreakerConfig`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("breaker: {field} is {value}: {reason}")]
pub struct BreakerError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub reason: &'static str,
}

/// Setters: each replaces the field of its name.
impl BreakerConfig {
    /// See [`BreakerConfig::consecutive`].
    pub fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = failures;
        self
    }

    /// See [`BreakerConfig::failure_rate`].
    pub fn failure_rate(mut self, rate: f64) -> Self {
        self.failure_rate = rate;
        self
    }

    /// See [`BreakerConfig::min_requests`].
    pub fn min_requests(mut self, requests: u32) -> Self {
        self.min_requests = requests;
        self
    }

    /// See [`BreakerConfig::window`].
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// See [`BreakerConfig::open_for`].
    pub fn open_for(mut self, time: Duration) -> Self {
        self.open_for = time;
        self
    }

    /// See [`BreakerConfig::open_for_at_most`].
    pub fn open_for_at_most(mut self, time: Duration) -> Self {
        self.open_for_at_most = time;
        self
    }

    /// See [`BreakerConfig::probes`].
    pub fn probes(mut self, probes: u32) -> Self {
        self.probes = probes;
        self
    }

    /// See [`BreakerConfig::successes`].
    pub fn successes(mut self, successes: u32) -> Self {
        self.successes = successes;
        self
    }
}

impl BreakerConfig {
    /// Checks the fields.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), BreakerError> {
        let error = |field, value: String, reason| {
            Err(BreakerError {
                field,
                value,
                reason,
            })
        };
        for (field, value) in [
            ("consecutive", self.consecutive),
            ("min_requests", self.min_requests),
            ("probes", self.probes),
            ("successes", self.successes),
        ] {
            if value == 0 {
                return error(field, value.to_string(), "1 is the least");
            }
        }
        if !(self.failure_rate > 0.0 && self.failure_rate <= 1.0) {
            let value = self.failure_rate.to_string();
            return error("failure_rate", value, "it must be over 0 and at most 1");
        }
        if self.window.is_zero() {
            return error("window", "0".to_owned(), "nothing fits into it");
        }
        if self.open_for > self.open_for_at_most {
            let value = format!("{:?}", self.open_for);
            return error("open_for", value, "it exceeds open_for_at_most");
        }
        Ok(())
    }
}
