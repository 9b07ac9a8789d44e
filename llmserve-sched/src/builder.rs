//! Options, checked once.

use std::time::Duration;

use crate::config::SchedulerConfig;
use crate::fairness::Fairness;
use crate::policy::{Fcfs, Policy};
use crate::reservation::Reservation;
use crate::scheduler::ContinuousScheduler;

/// Options that cannot be honoured.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option that must be at least 1 is 0.
    #[error("{option} must be at least 1")]
    Zero {
        /// Which option.
        option: &'static str,
    },
    /// The watermark is not a share.
    #[error("watermark is {0}, it must be at least 0 and below 1")]
    Watermark(f64),
    /// A number of the reservation that cannot be one.
    #[error("reservation: {option} is {value}")]
    Reservation {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: f64,
    },
    /// A number of the fairness that cannot be one.
    #[error("fairness: {option} is {value}")]
    Fairness {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: f64,
    },
    /// A threshold splits prompts, which may not be split.
    #[error("long_prefill_threshold is {threshold} and chunked_prefill is off")]
    ThresholdWithoutChunks {
        /// The threshold.
        threshold: usize,
    },
}

/// Builds a [`ContinuousScheduler`]; every option has a default.
///
/// ```
/// use llmserve_sched::{BuildError, ContinuousScheduler};
/// let none = ContinuousScheduler::builder().max_num_seqs(0).build();
/// assert_eq!(none.err(), Some(BuildError::Zero { option: "max_num_seqs" }));
/// ```
#[must_use = "a builder does nothing before build()"]
pub struct SchedulerBuilder {
    config: SchedulerConfig,
    policy: Box<dyn Policy>,
}

impl SchedulerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: SchedulerConfig::default(),
            policy: Box::new(Fcfs),
        }
    }

    /// Replaces all limits.
    pub fn config(mut self, config: SchedulerConfig) -> Self {
        self.config = config;
        self
    }

    /// See [`SchedulerConfig::max_batched_tokens`].
    pub fn max_batched_tokens(mut self, tokens: usize) -> Self {
        self.config.max_batched_tokens = tokens;
        self
    }

    /// See [`SchedulerConfig::max_num_seqs`].
    pub fn max_num_seqs(mut self, sequences: usize) -> Self {
        self.config.max_num_seqs = sequences;
        self
    }

    /// See [`SchedulerConfig::max_queue`].
    pub fn max_queue(mut self, waiting: impl Into<Option<usize>>) -> Self {
        self.config.max_queue = waiting.into();
        self
    }

    /// See [`SchedulerConfig::max_queue_tokens`].
    pub fn max_queue_tokens(mut self, tokens: impl Into<Option<usize>>) -> Self {
        self.config.max_queue_tokens = tokens.into();
        self
    }

    /// See [`SchedulerConfig::reservation`].
    pub fn reservation(mut self, reservation: impl Into<Option<Reservation>>) -> Self {
        self.config.reservation = reservation.into();
        self
    }

    /// See [`SchedulerConfig::admission_delay`].
    pub fn admission_delay(mut self, delay: Duration) -> Self {
        self.config.admission_delay = delay;
        self
    }

    /// See [`SchedulerConfig::long_prefill_threshold`].
    pub fn long_prefill_threshold(mut self, tokens: impl Into<Option<usize>>) -> Self {
        self.config.long_prefill_threshold = tokens.into();
        self
    }

    /// See [`SchedulerConfig::chunked_prefill`].
    pub fn chunked_prefill(mut self, on: bool) -> Self {
        self.config.chunked_prefill = on;
        self
    }

    /// See [`SchedulerConfig::watermark`].
    pub fn watermark(mut self, share: f64) -> Self {
        self.config.watermark = share;
        self
    }

    /// See [`SchedulerConfig::fairness`].
    pub fn fairness(mut self, fairness: impl Into<Option<Fairness>>) -> Self {
        self.config.fairness = fairness.into();
        self
    }

    /// Who waits for whom, and who yields; [`Fcfs`] by default.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// The scheduler.
    ///
    /// # Errors
    /// [`BuildError`] for a limit of 0, a watermark outside `0.0..1.0`, or options that
    /// contradict each other.
    pub fn build(self) -> Result<ContinuousScheduler, BuildError> {
        let Self { config, policy } = self;
        let limits = [
            ("max_batched_tokens", Some(config.max_batched_tokens)),
            ("max_num_seqs", Some(config.max_num_seqs)),
            ("max_queue", config.max_queue),
            ("max_queue_tokens", config.max_queue_tokens),
            ("long_prefill_threshold", config.long_prefill_threshold),
        ];
        for (option, value) in limits {
            if value == Some(0) {
                return Err(BuildError::Zero { option });
            }
        }
        if !(0.0..1.0).contains(&config.watermark) {
            return Err(BuildError::Watermark(config.watermark));
        }
        if let Some(Err((option, value))) = config.reservation.as_ref().map(Reservation::check) {
            return Err(BuildError::Reservation { option, value });
        }
        if let Some(Err((option, value))) = config.fairness.as_ref().map(Fairness::check) {
            return Err(BuildError::Fairness { option, value });
        }
        match config.long_prefill_threshold {
            Some(threshold) if !config.chunked_prefill => {
                Err(BuildError::ThresholdWithoutChunks { threshold })
            }
            _ => Ok(ContinuousScheduler::new(config, policy)),
        }
    }
}

impl std::fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl FnOnce(SchedulerBuilder) -> SchedulerBuilder) -> Option<BuildError> {
        change(SchedulerBuilder::new()).build().err()
    }

    #[test]
    fn defaults_build_and_small_budgets_do_too() {
        assert_eq!(error(|b| b), None);
        assert_eq!(error(|b| b.max_batched_tokens(1).max_num_seqs(256)), None);
        assert_eq!(error(|b| b.max_queue(None).watermark(0.0)), None);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let zero = |option| Some(BuildError::Zero { option });
        assert_eq!(
            error(|b| b.max_batched_tokens(0)),
            zero("max_batched_tokens")
        );
        assert_eq!(error(|b| b.max_num_seqs(0)), zero("max_num_seqs"));
        assert_eq!(error(|b| b.max_queue(0)), zero("max_queue"));
        assert_eq!(
            error(|b| b.long_prefill_threshold(0)),
            zero("long_prefill_threshold")
        );
        for share in [1.0, -0.1, f64::INFINITY] {
            assert_eq!(
                error(|b| b.watermark(share)),
                Some(BuildError::Watermark(share))
            );
        }
        assert!(matches!(
            error(|b| b.watermark(f64::NAN)),
            Some(BuildError::Watermark(_))
        ));
        for (option, rules) in [
            (
                "initial",
                Reservation {
                    initial: 1.5,
                    ..Reservation::default()
                },
            ),
            (
                "least",
                Reservation {
                    least: 0.8,
                    ..Reservation::default()
                },
            ),
            (
                "margin",
                Reservation {
                    margin: 1.0,
                    ..Reservation::default()
                },
            ),
            (
                "rise",
                Reservation {
                    rise: f64::NAN,
                    ..Reservation::default()
                },
            ),
        ] {
            assert!(matches!(
                error(|b| b.reservation(rules)),
                Some(BuildError::Reservation { option: told, .. }) if told == option
            ));
        }
        let fairness = |option, value| Some(BuildError::Fairness { option, value });
        let fair = Fairness::default;
        assert_eq!(error(|b| b.fairness(fair())), None);
        assert_eq!(
            error(|b| b.fairness(fair().quantum(0))),
            fairness("quantum", 0.0)
        );
        assert_eq!(
            error(|b| b.fairness(fair().weight("a", -1.0))),
            fairness("weights", -1.0)
        );
        assert_eq!(
            error(|b| b.fairness(fair().cached_cost(-0.5))),
            fairness("cached_cost", -0.5)
        );
        assert_eq!(
            error(|b| b.chunked_prefill(false).long_prefill_threshold(64)),
            Some(BuildError::ThresholdWithoutChunks { threshold: 64 })
        );
    }
}
