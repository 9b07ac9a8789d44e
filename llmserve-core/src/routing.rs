//! What a request asks of whoever chooses its answerer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Wishes and limits on who may answer. Routers read them; an engine, which has no choice, does
/// not.
///
/// ```
/// use std::time::Duration;
/// use llmserve_core::{Request, Routing};
/// let routing = Routing::default()
///     .session("thread-7")
///     .region("eu")
///     .need("tools")
///     .latency_budget(Duration::from_millis(800));
/// let request = Request::text("Hi").routing(routing);
/// assert_eq!(request.routing.regions, ["eu"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Routing {
    /// What belongs together and is best answered by the same replica: a conversation, a user.
    pub session: Option<String>,
    /// Data residency: the regions whose replicas may see this request. Empty: any. A limit, not a
    /// wish: where none of them can answer, the request fails.
    pub regions: Vec<String>,
    /// The region the client is in, for latency.
    pub origin: Option<String>,
    /// Capabilities the answerer must have, such as `"tools"`, `"vision"` or `"adapter:legal"`.
    pub needs: Vec<String>,
    /// The most that a million tokens may cost, in the unit in which replicas state their cost.
    pub max_cost: Option<f64>,
    /// The least quality, on the scale on which replicas state theirs.
    pub min_quality: Option<f32>,
    /// The time until the answer is complete that the client counts on. A wish:
    /// [`Request::deadline`](crate::Request::deadline) is the limit.
    pub latency_budget: Option<Duration>,
    /// The tier to answer from, where there are tiers, by its name.
    pub tier: Option<String>,
}

/// Setters: each replaces the field of its name or, where the field is a list, adds to it.
impl Routing {
    /// See [`Routing::session`].
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.session = Some(session.into());
        self
    }

    /// Adds to [`Routing::regions`].
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.regions.push(region.into());
        self
    }

    /// See [`Routing::origin`].
    pub fn origin(mut self, region: impl Into<String>) -> Self {
        self.origin = Some(region.into());
        self
    }

    /// Adds to [`Routing::needs`].
    pub fn need(mut self, capability: impl Into<String>) -> Self {
        self.needs.push(capability.into());
        self
    }

    /// See [`Routing::max_cost`].
    pub fn max_cost(mut self, cost: f64) -> Self {
        self.max_cost = Some(cost);
        self
    }

    /// See [`Routing::min_quality`].
    pub fn min_quality(mut self, quality: f32) -> Self {
        self.min_quality = Some(quality);
        self
    }

    /// See [`Routing::latency_budget`].
    pub fn latency_budget(mut self, budget: Duration) -> Self {
        self.latency_budget = Some(budget);
        self
    }

    /// See [`Routing::tier`].
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.tier = Some(tier.into());
        self
    }
}
