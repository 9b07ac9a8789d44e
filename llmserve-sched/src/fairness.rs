//! Fairness between tenants: what is told once.

use std::collections::BTreeMap;

/// Deficit round robin over tenants, by tokens of service.
///
/// Tenants with waiting requests take turns. A turn brings a tenant [`quantum`](Self::quantum)
/// tokens of credit, times its weight; while it has credit its next request is admitted, in the
/// order of the policy, and pays for its prompt. Tokens generated are paid as they come, so a
/// tenant with much in the batch has debts and is passed until its turns have paid them.
///
/// ```text
///   ring   ┌► A  credit  112 ─► admit ─► −88: its turn is over ─┐
///          │  B  credit −300 ─► +512 ─► admit …                 │
///          └──C  credit    0 ◄──────────────────────────────────┘
/// ```
///
/// So a tenant with one request waits for at most one turn of each other tenant, however much they
/// have queued: a turn's quantum and the prompt of one request.
///
/// Seats and blocks are shared as well. A tenant's *share* is its part of them, by weight, among
/// the tenants that run or wait. Who has fewer seats than its share is served before those who
/// have theirs; if all seats are taken, or the blocks, it [takes](Self::reclaims) from those who
/// have more. When blocks run out it is a tenant with more than its share that yields. While
/// nobody else waits one may have everything. A request that finds too few blocks holds up its own
/// tenant; after 32 admissions of others it is next, and all wait with it.
///
/// The limits of the queue are shared too: a tenant may have four times as much waiting as there is
/// room left, by its weight. One that floods leaves at least a fifth to the others.
///
/// Whatever is served while nobody else waits is free: a tenant that used an idle engine does not pay for it later, and a tenant
/// that leaves has no credit to come back with. Preempted sequences pay nothing for being computed
/// again.
///
/// Requests without a tenant are together a tenant of their own. Without fairness, which is the
/// default, all tenants are one.
///
/// ```
/// use llmserve_sched::{ContinuousScheduler, Fairness, LongestPrefix};
/// let fairness = Fairness::default().weight("gold", 4.0).cached_cost(0.05);
/// let scheduler = ContinuousScheduler::builder()
///     .policy(LongestPrefix) // within a tenant
///     .fairness(fairness)
///     .build()?;
/// # Ok::<(), llmserve_sched::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fairness {
    /// Tokens a turn brings a tenant of weight 1. Smaller ones share more finely. Default 512; at
    /// least 1.
    pub quantum: usize,
    /// Shares of tenants by name, above 0; a tenant of weight 2 gets twice the service of one of
    /// weight 1.
    pub weights: BTreeMap<String, f64>,
    /// The weight of all other tenants. Default 1, above 0.
    pub other_weight: f64,
    /// What a prompt token found in the prefix cache costs, where one that is computed costs 1.
    /// Default 0.1; not negative.
    pub cached_cost: f64,
    /// What a generated token costs. Default 1; not negative.
    pub generated_cost: f64,
    /// Whether a waiting request whose tenant has fewer seats than its share, and will have no
    /// more blocks than its share, preempts sequences of tenants that have more when there is no
    /// room for it. None is preempted for it that has been [three times](crate::MAX_PREEMPTIONS).
    /// Default true; if not, it waits until somebody ends.
    pub reclaims: bool,
}

impl Default for Fairness {
    fn default() -> Self {
        Self {
            quantum: 512,
            weights: BTreeMap::new(),
            other_weight: 1.0,
            cached_cost: 0.1,
            generated_cost: 1.0,
            reclaims: true,
        }
    }
}

/// Credit is counted in thousandths of a token, so that it is exact.
pub(crate) const TOKEN: i64 = 1000;

impl Fairness {
    /// Sets a tenant's weight.
    pub fn weight(mut self, tenant: impl Into<String>, weight: f64) -> Self {
        self.weights.insert(tenant.into(), weight);
        self
    }

    /// Sets [`quantum`](Self::quantum).
    pub fn quantum(mut self, tokens: usize) -> Self {
        self.quantum = tokens;
        self
    }

    /// Sets [`cached_cost`](Self::cached_cost).
    pub fn cached_cost(mut self, cost: f64) -> Self {
        self.cached_cost = cost;
        self
    }

    /// Sets [`reclaims`](Self::reclaims).
    pub fn reclaims(mut self, yes: bool) -> Self {
        self.reclaims = yes;
        self
    }

    /// The first number that cannot be honoured, by name.
    pub(crate) fn check(&self) -> Result<(), (&'static str, f64)> {
        let positive = |name, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err((name, value)),
        };
        let cost = |name, value: f64| match (0.0..=1e6).contains(&value) {
            true => Ok(()),
            false => Err((name, value)),
        };
        positive("quantum", self.quantum as f64)?;
        positive("other_weight", self.other_weight)?;
        for weight in self.weights.values() {
            positive("weights", *weight)?;
        }
        cost("cached_cost", self.cached_cost)?;
        cost("generated_cost", self.generated_cost)
    }

    /// Credit a turn brings.
    pub(crate) fn turn(&self, tenant: Option<&str>) -> i64 {
        let own = tenant.and_then(|tenant| self.weights.get(tenant));
        self.credit(own.copied().unwrap_or(self.other_weight))
    }

    /// Credit a turn brings a tenant without a weight of its own.
    pub(crate) fn turn_of_others(&self) -> i64 {
        self.credit(self.other_weight)
    }

    fn credit(&self, weight: f64) -> i64 {
        let credit = self.quantum as f64 * weight * TOKEN as f64;
        credit.clamp(1.0, 1e15) as i64
    }

    /// What a prompt costs of which `cached` tokens were found.
    pub(crate) fn prompt(&self, computed: usize, cached: usize) -> i64 {
        let cost = computed as f64 + cached as f64 * self.cached_cost;
        (cost * TOKEN as f64) as i64
    }

    /// What generated tokens cost.
    pub(crate) fn generated(&self, tokens: usize) -> i64 {
        (tokens as f64 * self.generated_cost * TOKEN as f64) as i64
    }
}
