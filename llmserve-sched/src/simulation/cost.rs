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

    /// What is wrong with its own numbers, if anything: a simulation is not built with them.
    fn fault(&self) -> Option<&'static str> {
        None
    }
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

/// Most milliseconds of a step or a row: a day.
const LONGEST_MS: f64 = 86_400_000.0;
/// Least prompt tokens a second.
const SLOWEST: f64 = 0.001;

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
        let prompts = match load.prefill_tokens {
            0 => 0.0,
            tokens => tokens as f64 / self.prefill_tokens_per_s,
        };
        // What no duration can say is for ever: a step that takes too long is seen, one that takes
        // no time is not.
        Duration::try_from_secs_f64(rows / 1e3 + prompts).unwrap_or(Duration::MAX)
    }

    fn fault(&self) -> Option<&'static str> {
        let time = |ms: f64| (0.0..=LONGEST_MS).contains(&ms);
        if !time(self.decode_ms) {
            return Some("decode_ms must be at least 0 and at most a day");
        }
        if !time(self.row_ms) {
            return Some("row_ms must be at least 0 and at most a day");
        }
        let rate = self.prefill_tokens_per_s;
        if !(rate.is_finite() && rate >= SLOWEST) {
            return Some("prefill_tokens_per_s must be a number, at least 0.001");
        }
        None
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
    fn a_cost_that_is_no_time_is_for_ever_and_is_told() {
        let load = StepLoad {
            decode_rows: 2,
            prefill_tokens: 1000,
            context_tokens: 1002,
        };
        let linear = LinearCost::default;
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let cost = LinearCost {
                prefill_tokens_per_s: wrong,
                ..linear()
            };
            assert!(cost.fault().is_some(), "{wrong}");
            if !wrong.is_infinite() {
                assert_eq!(cost.step_time(&load), Duration::MAX, "{wrong}");
            }
        }
        for wrong in [-0.1, f64::NAN, f64::INFINITY, 1e300] {
            let decode = LinearCost {
                decode_ms: wrong,
                ..linear()
            };
            let row = LinearCost {
                row_ms: wrong,
                ..linear()
            };
            for cost in [decode, row] {
                assert!(cost.fault().is_some(), "{wrong}");
                if wrong != -0.1 {
                    assert_eq!(cost.step_time(&load), Duration::MAX, "{wrong}");
                }
            }
        }
        let slow = LinearCost {
            prefill_tokens_per_s: SLOWEST,
            decode_ms: LONGEST_MS,
            row_ms: 0.0,
        };
        assert_eq!(slow.fault(), None);
        assert_eq!(
            slow.step_time(&load),
            Duration::from_secs(86_400 + 1_000_000)
        );
    }
}
