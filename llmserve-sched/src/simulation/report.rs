//! What a simulation tells in the end.

use super::histogram::Histogram;

/// What became of the requests, and how long they took. All times are virtual, in seconds.
///
/// A report is plain data: it reads and writes itself with serde, and equals that of another run
/// of the same simulation.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// From the first arrival to the end of the last step.
    pub seconds: f64,
    /// Steps.
    pub steps: u64,
    /// What became of the requests.
    pub requests: Outcomes,
    /// Tokens computed and spared.
    pub tokens: Tokens,
    /// What was done in a second.
    pub throughput: Throughput,
    /// From a request's arrival to its first admission.
    pub queueing: Distribution,
    /// Time to first token: from a request's arrival to the end of the step that sampled it.
    pub ttft: Distribution,
    /// Inter-token latency: between two tokens of one request.
    pub itl: Distribution,
    /// From arrival to last token, of those that finished.
    pub e2e: Distribution,
    /// How often blocks were taken away.
    pub preemptions: Preemptions,
    /// Jain's index over tenants: 1 if all were served alike, 1/n if one of n had everything.
    ///
    /// For each window of time (a second, unless said otherwise), what each tenant was served is
    /// divided by its max-min fair share, given that it asked for what it was served and for what
    /// it had waiting in the end; the index of these quotients is averaged over the windows in
    /// which at least two tenants asked for anything, weighed by the tokens served. 1 if there was
    /// none.
    pub fairness: f64,
    /// How much of what there is was used.
    pub utilisation: Utilisation,
    /// The same by tenant, in the order they first came; requests without one are a tenant without
    /// a name.
    pub tenants: Vec<TenantReport>,
    /// How it went over time: at most 512 samples at equal distances.
    pub timeline: Vec<Sample>,
}

/// What became of requests: each is counted in `total` and in one other field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Outcomes {
    /// All.
    pub total: u64,
    /// Have all their tokens.
    pub finished: u64,
    /// Refused because prompt and answer together could never fit the KV blocks.
    pub refused_too_long: u64,
    /// Refused by the scheduler for any other reason, such as a full queue.
    pub refused: u64,
    /// Given up by their senders.
    pub cancelled: u64,
    /// Their deadline passed before their first admission.
    pub expired_waiting: u64,
    /// Their deadline passed later.
    pub expired_running: u64,
    /// The scheduler could not go on with them.
    pub lost: u64,
}

impl Outcomes {
    /// Those that were accepted and have ended without all their tokens.
    pub fn cut_short(&self) -> u64 {
        self.cancelled + self.expired_waiting + self.expired_running + self.lost
    }
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Tokens {
    /// In the prompts of accepted requests.
    pub prompt: u64,
    /// Of these, found in the prefix cache at the first admission.
    pub cached: u64,
    /// Generated.
    pub generated: u64,
    /// Positions that steps computed.
    pub computed: u64,
    /// Of these, positions that had been computed before and were lost to a preemption.
    pub recomputed: u64,
}

/// Work done in a second of virtual time, idle times included.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Throughput {
    /// Requests that finished.
    pub requests_per_s: f64,
    /// Tokens generated.
    pub generated_per_s: f64,
    /// Positions computed.
    pub computed_per_s: f64,
}

/// A distribution of times in seconds. Percentiles are off by at most 0.4 % of themselves; count,
/// mean, least and greatest are exact. All zero if nothing was counted.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half are no longer.
    pub p50: f64,
    /// Nine in ten are no longer.
    pub p90: f64,
    /// 95 in a hundred are no longer.
    pub p95: f64,
    /// 99 in a hundred are no longer.
    pub p99: f64,
    /// 999 in a thousand are no longer.
    pub p999: f64,
    /// The greatest.
    pub max: f64,
    /// The percentiles from 0 to 100, for a curve; empty in a tenant's part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub percentiles: Vec<f64>,
}

/// How often running requests had to give up their blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Preemptions {
    /// All of them.
    pub total: u64,
    /// Requests that were preempted at least once.
    pub requests: u64,
    /// A request's mean, over all that were admitted.
    pub mean: f64,
    /// Half of those admitted were not preempted more often.
    pub p50: u64,
    /// 99 in a hundred were not.
    pub p99: u64,
    /// Nobody was.
    pub max: u64,
}

/// Shares of what there is, `0.0..=1.0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Utilisation {
    /// Time spent in steps.
    pub busy: f64,
    /// Of the steps' token budgets: the mean over steps.
    pub budget: f64,
    /// Of the seats: the mean over the time in steps.
    pub seats: f64,
    /// KV blocks held by somebody: the mean over the time in steps.
    pub kv: f64,
    /// The most KV blocks held while a step ran.
    pub kv_peak: f64,
}

/// A tenant's part.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct TenantReport {
    /// Its name.
    pub name: Option<String>,
    /// What became of its requests.
    pub requests: Outcomes,
    /// Positions computed for it.
    pub computed_tokens: u64,
    /// Time to first token.
    pub ttft: Distribution,
    /// From arrival to last token.
    pub e2e: Distribution,
}

/// Means over a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Sample {
    /// Where it ends, in seconds since the first request came.
    pub seconds: f64,
    /// Requests running.
    pub running: f64,
    /// Requests waiting.
    pub waiting: f64,
    /// Share of KV blocks held.
    pub kv: f64,
    /// Positions computed in a second.
    pub computed_per_s: f64,
}

impl Distribution {
    /// From nanoseconds.
    pub(super) fn of(histogram: &Histogram) -> Self {
        let [p50, p90, p95, p99, p999] = histogram
            .quantiles([0.5, 0.9, 0.95, 0.99, 0.999])
            .map(seconds);
        Self {
            count: histogram.count(),
            mean: histogram.mean() / 1e9,
            p50,
            p90,
            p95,
            p99,
            p999,
            max: seconds(histogram.max()),
            percentiles: Vec::new(),
        }
    }

    /// With its percentiles.
    pub(super) fn with_curve(histogram: &Histogram) -> Self {
        let percentiles = histogram.quantiles::<101>(std::array::from_fn(|at| at as f64 / 100.0));
        Self {
            percentiles: percentiles.into_iter().map(seconds).collect(),
            ..Self::of(histogram)
        }
    }
}

pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
