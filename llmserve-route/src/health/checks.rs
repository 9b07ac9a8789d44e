//! How often, and how patiently, replicas are asked whether they are well.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How replicas with a [probe](crate::Replica::probe) are asked whether they are well.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::health::HealthChecks;
/// let checks = HealthChecks::default().interval(Duration::from_secs(5)).unhealthy_threshold(3);
/// assert_eq!((checks.timeout, checks.healthy_threshold), (Duration::from_secs(2), 1));
/// assert!(checks.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthChecks {
    /// From the beginning of one probe to that of the next, which waits for the end of the one
    /// before; not 0. Default: 10 s.
    pub interval: Duration,
    /// How long a probe may take; one that takes longer has failed, and is dropped. Not 0.
    /// Default: 2 s.
    pub timeout: Duration,
    /// Probes in a row that fail before a replica is no longer asked; at least 1. The very first
    /// probe of a newcomer decides alone. Default: 2.
    pub unhealthy_threshold: u32,
    /// Probes in a row that succeed before it is asked again; at least 1. Default: 1.
    pub healthy_threshold: u32,
    /// The part of the interval, from 0 and below 1, by which it is drawn longer or shorter each
    /// time, so that many routers do not ask all at once. Default: 0.1.
    pub jitter: f64,
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            unhealthy_threshold: 2,
            healthy_threshold: 1,
            jitter: 0.1,
        }
    }
}

/// What is wrong with [`HealthChecks`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("health checks: {field} is {value}: {reason}")]
pub struct HealthCheckError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub reason: &'static str,
}

/// Setters: each replaces the field of its name.
impl HealthChecks {
    /// See [`HealthChecks::interval`].
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// See [`HealthChecks::timeout`].
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// See [`HealthChecks::unhealthy_threshold`].
    pub fn unhealthy_threshold(mut self, probes: u32) -> Self {
        self.unhealthy_threshold = probes;
        self
    }

    /// See [`HealthChecks::healthy_threshold`].
    pub fn healthy_threshold(mut self, probes: u32) -> Self {
        self.healthy_threshold = probes;
        self
    }

    /// See [`HealthChecks::jitter`].
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }
}

impl HealthChecks {
    /// Checks the fields.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), HealthCheckError> {
        let wrong = |field, value: String, reason| {
            Err(HealthCheckError {
                field,
                value,
                reason,
            })
        };
        for (field, time) in [("interval", self.interval), ("timeout", self.timeout)] {
            if time.is_zero() {
                return wrong(field, "0".to_owned(), "it must be longer");
            }
        }
        for (field, probes) in [
            ("unhealthy_threshold", self.unhealthy_threshold),
            ("healthy_threshold", self.healthy_threshold),
        ] {
            if probes == 0 {
                return wrong(field, "0".to_owned(), "1 is the least");
            }
        }
        if !(0.0..1.0).contains(&self.jitter) {
            let value = self.jitter.to_string();
            return wrong("jitter", value, "it must be at least 0 and below 1");
        }
        Ok(())
    }
}
