//! When to ask a second replica for what the first has not begun to answer.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::ReliabilityError;

/// Asks a second replica where the first takes long, and takes whichever answers first (Dean and
/// Barroso, *The Tail at Scale*, 2013). Costs a retry of the [budget](super::RetryBudget) each
/// time; the slower one is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Hedge {
    /// After this long without an event.
    After(Duration),
    /// When it has taken longer than this part of the answers of late, such as 0.95. Not before
    /// 20 of them are known.
    Quantile(f64),
}

impl Hedge {
    pub(crate) fn check(&self) -> Result<(), ReliabilityError> {
        match self {
            Hedge::Quantile(part) if !(*part > 0.0 && *part < 1.0) => {
                let reason = "it must be between 0 and 1";
                Err(ReliabilityError::new("Hedge::Quantile", part, reason))
            }
            _ => Ok(()),
        }
    }
}

/// When to hedge, as learnt from the answers.
#[derive(Debug)]
pub(crate) struct Hedging {
    hedge: Hedge,
    /// Seconds: the estimate, and how many answers it comes from.
    learnt: Mutex<(f64, u32)>,
}

/// Answers before an estimate is used.
const ENOUGH: u32 = 20;

impl Hedging {
    pub(crate) fn new(hedge: Hedge) -> Self {
        Self {
            hedge,
            learnt: Mutex::new((0.0, 0)),
        }
    }

    /// How long after a dispatch; none where it is not known yet.
    pub(crate) fn after(&self) -> Option<Duration> {
        match self.hedge {
            Hedge::After(time) => Some(time),
            Hedge::Quantile(_) => {
                let (estimate, answers) = *self.learnt.lock();
                let known = answers >= ENOUGH;
                known.then(|| Duration::try_from_secs_f64(estimate).unwrap_or(Duration::MAX))
            }
        }
    }

    /// An answer began so long after its dispatch.
    ///
    /// The estimate moves up by a part of itself at each answer that took longer, and down at each
    /// that did not, in the proportion in which that must happen at the quantile: no answers are
    /// kept. (Stochastic approximation, Robbins and Monro, 1951, on a logarithmic scale.)
    pub(crate) fn answered(&self, after: Duration) {
        let Hedge::Quantile(part) = self.hedge else {
            return;
        };
        let seconds = after.as_secs_f64().max(1e-6);
        let mut learnt = self.learnt.lock();
        let (estimate, answers) = &mut *learnt;
        *answers = answers.saturating_add(1);
        if *answers == 1 {
            *estimate = seconds;
            return;
        }
        let step = (4.0 / f64::from(*answers)).max(0.05);
        let direction = if seconds > *estimate {
            part
        } else {
            part - 1.0
        };
        *estimate *= (step * direction).exp();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantile_is_found_and_followed() {
        for part in [0.5, 0.9, 0.95] {
            let hedging = Hedging::new(Hedge::Quantile(part));
            let mut state = 7u64;
            let mut draw = |scale: f64| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                Duration::from_secs_f64(scale * (0.001 + (state >> 40) as f64 / (1 << 24) as f64))
            };
            for _ in 0..ENOUGH - 1 {
                hedging.answered(draw(1.0));
            }
            assert_eq!(hedging.after(), None);
            for scale in [1.0, 10.0] {
                (0..5_000).for_each(|_| hedging.answered(draw(scale)));
                // How many take longer than the estimate, while it goes on learning.
                let longer = (0..5_000).filter(|_| {
                    let time = draw(scale);
                    let longer = time > hedging.after().unwrap();
                    hedging.answered(time);
                    longer
                });
                let longer = longer.count() as f64 / 5_000.0;
                assert!((longer - (1.0 - part)).abs() < 0.03, "{part}: {longer}");
            }
        }
    }

    #[test]
    fn a_part_is_a_part() {
        for part in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(Hedge::Quantile(part).check().is_err());
        }
        assert!(Hedge::Quantile(0.99).check().is_ok());
        assert_eq!(
            Hedging::new(Hedge::After(Duration::ZERO)).after(),
            Some(Duration::ZERO)
        );
    }
}
