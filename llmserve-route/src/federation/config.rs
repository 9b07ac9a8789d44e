//! How regions are chosen, as a host writes it down.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layer::FederationError;

/// Which regions are in service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// All of them.
    #[default]
    ActiveActive,
    /// Those of the highest priority that may answer; the others stand by. What those have no
    /// capacity for goes to the next.
    ActivePassive,
    /// All of them, up to what they can hold without the largest. Every region needs a capacity.
    /// Beyond that requests are refused with
    /// [`Error::Overloaded`](llmserve_core::Error::Overloaded), so that whichever is lost, the
    /// others can take what it had. A request that names regions has no reserve of its own within
    /// them.
    NPlusOne,
}

/// What counts for how much in the score of a region, the least score being the best.
///
/// Each part is from 0 to 1: what it is of the highest among the regions that may answer. The load is
/// the part of the capacity that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ScoreWeights {
    /// The latency from the request's origin. A pair of origin and region without one counts as the
    /// mean of the others; a request without an origin has none anywhere. Default: 1.
    pub latency: f64,
    /// Requests outstanding, of the capacity; without one, of the most at any region. Default: 1.
    pub load: f64,
    /// The [cost](crate::ReplicaInfo::cost). Without one it counts as the highest. Default: 0.25.
    pub cost: f64,
    /// The priority, 0 being the best. Default: 0.5.
    pub priority: f64,
}

impl Default for ScoreWeights {
    fn default() -> Self {
        Self {
            latency: 1.0,
            load: 1.0,
            cost: 0.25,
            priority: 0.5,
        }
    }
}

/// How regions are chosen.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::federation::{FederationConfig, Mode};
/// let config = FederationConfig::default()
///     .mode(Mode::ActivePassive)
///     .latency_ms("eu", "us", 90.0)
///     .priority("us", 1)
///     .failback_after(Duration::from_secs(120));
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FederationConfig {
    /// Which are in service. Default: all.
    pub mode: Mode,
    /// What counts for how much.
    pub weights: ScoreWeights,
    /// Milliseconds from an [origin](llmserve_core::Routing::origin) to a region. From a region to
    /// itself it is 0 unless it says otherwise.
    pub latency_ms: BTreeMap<String, BTreeMap<String, f64>>,
    /// By region, lower being sooner. Those that are not here have 0.
    pub priority: BTreeMap<String, u32>,
    /// Failures in a row that put a region out of favour; at least 1. Default: 3.
    pub failover_after: u32,
    /// How long it must be without a failure to come back. Default: 60 s.
    pub failback_after: Duration,
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            weights: ScoreWeights::default(),
            latency_ms: BTreeMap::new(),
            priority: BTreeMap::new(),
            failover_after: 3,
            failback_after: Duration::from_secs(60),
        }
    }
}

/// Setters: each replaces the field of its name or, where the field is a table, adds to it.
impl FederationConfig {
    /// See [`FederationConfig::mode`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// See [`FederationConfig::weights`].
    pub fn weights(mut self, weights: ScoreWeights) -> Self {
        self.weights = weights;
        self
    }

    /// Milliseconds from `origin` to `region`; see [`FederationConfig::latency_ms`].
    pub fn latency_ms(
        mut self,
        origin: impl Into<String>,
        region: impl Into<String>,
        milliseconds: f64,
    ) -> Self {
        let from = self.latency_ms.entry(origin.into()).or_default();
        from.insert(region.into(), milliseconds);
        self
    }

    /// See [`FederationConfig::priority`].
    pub fn priority(mut self, region: impl Into<String>, priority: u32) -> Self {
        self.priority.insert(region.into(), priority);
        self
    }

    /// See [`FederationConfig::failover_after`].
    pub fn failover_after(mut self, failures: u32) -> Self {
        self.failover_after = failures;
        self
    }

    /// See [`FederationConfig::failback_after`].
    pub fn failback_after(mut self, time: Duration) -> Self {
        self.failback_after = time;
        self
    }
}

impl FederationConfig {
    /// Checks the fields.
    ///
    /// # Errors
    /// [`FederationError::BadValue`]: the first that cannot be.
    pub fn check(&self) -> Result<(), FederationError> {
        let wrong = |what: String, value: String, reason| {
            Err(FederationError::BadValue {
                what,
                value,
                reason,
            })
        };
        let weights = &self.weights;
        for (name, weight) in [
            ("latency", weights.latency),
            ("load", weights.load),
            ("cost", weights.cost),
            ("priority", weights.priority),
        ] {
            if !(0.0..f64::INFINITY).contains(&weight) {
                let what = format!("the weight of {name}");
                return wrong(what, weight.to_string(), "it is finite and not below 0");
            }
        }
        for (origin, to) in &self.latency_ms {
            for (region, latency) in to {
                if !(0.0..f64::INFINITY).contains(latency) {
                    let what = format!("the latency from {origin:?} to {region:?}");
                    return wrong(what, latency.to_string(), "it is finite and not below 0");
                }
            }
        }
        if self.failover_after == 0 {
            return wrong("failover_after".into(), "0".into(), "1 is the least");
        }
        Ok(())
    }

    /// Milliseconds from `origin` to `region`, where they are known.
    pub(super) fn latency(&self, origin: &str, region: &str) -> Option<f64> {
        let known = self.latency_ms.get(origin).and_then(|to| to.get(region));
        known.copied().or((origin == region).then_some(0.0))
    }
}
