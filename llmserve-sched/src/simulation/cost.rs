//! What a step costs.

use std::time::Duration;

/// What one step computes, as far as its time may depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepLoad {
    /// Rows of one token.
    pub decode_rows: usize,
    /// Tokens of all longer rows.
    pub prefill_tokens: usize,
    /// Positions that rows attend to, over all rows: for each row, where it ends.
    pub context_tokens: usize,
}

/// How long steps take on some machine.
///
/// ```
/// use std::time::Duration;
/// use llmserve_sched::simulation::{CostModel, StepLoad};
///
/// /// Reading the cache costs, too: 2 ns for each position attended to.
/// struct Measured;
///
/// impl CostModel for Measured {
///     fn step_time(&self, load: &StepLoad) -> Duration {
///         let rows = 300_000 + 20_000 * load.decode_rows + 45_000 * load.prefill_tokens;
///         Duration::from_nanos((rows + 2 * load.context_tokens) as u64)
///     }
/// }
/// ```
pub trait CostModel: Send + Sync {
    /// How long the step takes, from its plan to its commit. The same for the same load.
    fn step_time(&self, load: &StepLoad) -> Duration;
}

/// A step takes `decode_ms`, `row_ms` more for each row of one token, and the time that
/// `prefill_tokens_per_s` gives the tokens of longer rows.
///
/// The default's numbers stand for no machine in particular: 10 ms, 0.05 ms, 20,000 tokens a
/// second.
///
/// ```
/// use llmserve_sched::simulation::{CostModel, LinearCost, StepLoad};
/// let cost = LinearCost { decode_ms: 8.0, row_ms: 0.1, prefill_tokens_per_s: 10_000.0 };
/// assert_eq!(cost.step_time(&StepLoad::default()).as_millis(), 8);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinearCost {
    /// Prompt tokens a second, beyond the time of the step itself; above 0.
    pub prefill_tokens_per_s: f64,
    /// Milliseconds of any step; at least 0.
    pub decode_ms: f64,
    /// Milliseconds of each row of one token; at least 0.
    pub row_ms: f64,
}

impl Default for LinearCost {
    fn default() -> Self {
        Self {
            prefill_tokens_per_s: 20_000.0,
            decode_ms: 10.0,
            row_ms: 0.05,
        }
    }
}

impl CostModel for LinearCost {
    fn step_time(&self, load: &StepLoad) -> Duration {
        let rows = self.decode_ms + self.row_ms * load.decode_rows as f64;
        let prompts = load.prefill_tokens as f64 / self.prefill_tokens_per_s;
        // What no duration can say (a negative time, or more than for ever) is no time at all.
        Duration::try_from_secs_f64(rows / 1e3 + prompts).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_costs_its_rows_and_its_prompt_tokens() {
        let cost = LinearCost {
            prefill_tokens_per_s: 1000.0,
            decode_ms: 5.0,
            row_ms: 0.5,
        };
        let load = StepLoad {
            decode_rows: 4,
            prefill_tokens: 100,
            context_tokens: 9,
        };
        assert_eq!(cost.step_time(&load), Duration::from_millis(107));
    }

    #[test]
    fn a_cost_that_is_no_time_does_not_panic() {
        for rate in [0.0, f64::NAN, -1.0] {
            let cost = LinearCost {
                prefill_tokens_per_s: rate,
                ..LinearCost::default()
            };
            let load = StepLoad {
                prefill_tokens: 1000,
                ..StepLoad::default()
            };
            assert_eq!(cost.step_time(&load), Duration::ZERO);
        }
    }
}
