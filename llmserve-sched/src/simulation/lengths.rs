//! How long prompts and answers are.

use super::random::Random;

/// Most tokens of a prompt or an answer.
const MOST: usize = 1 << 24;

/// A distribution of lengths in tokens. Every length is at least 1.
///
/// ```
/// use llmserve_sched::simulation::Lengths;
/// // Most are short, some are long: what chats look like.
/// let prompts = Lengths::LogNormal { mean: 200.0, sigma: 1.0, max: 8192 };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Lengths {
    /// All the same.
    Fixed {
        /// Tokens.
        tokens: usize,
    },
    /// Each length from `min` to `max` as likely as any other.
    Uniform {
        /// The shortest.
        min: usize,
        /// The longest.
        max: usize,
    },
    /// As if each token were the last with the same probability.
    Geometric {
        /// Mean, before lengths above `max` are cut; at least 1.
        mean: f64,
        /// The longest.
        max: usize,
    },
    /// The logarithm is normally distributed.
    LogNormal {
        /// Mean, before lengths below 1 or above `max` are cut; at least 1.
        mean: f64,
        /// Standard deviation of the natural logarithm, `0.0..=4.0`.
        sigma: f64,
        /// The longest.
        max: usize,
    },
}

impl Lengths {
    /// The longest there can be.
    pub fn max(&self) -> usize {
        match *self {
            Self::Fixed { tokens } => tokens,
            Self::Uniform { max, .. }
            | Self::Geometric { max, .. }
            | Self::LogNormal { max, .. } => max,
        }
    }

    /// What is wrong with the numbers.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if !(1..=MOST).contains(&self.max()) {
            return Some("lengths: the longest is not within 1 and 2^24 tokens");
        }
        match *self {
            Self::Uniform { min, max } if min == 0 || min > max => {
                Some("lengths: the shortest is 0, or longer than the longest")
            }
            Self::Geometric { mean, .. } | Self::LogNormal { mean, .. }
                if !(1.0..=MOST as f64).contains(&mean) =>
            {
                Some("lengths: the mean is not within 1 and 2^24 tokens")
            }
            Self::LogNormal { sigma, .. } if !(0.0..=4.0).contains(&sigma) => {
                Some("lengths: sigma is not within 0 and 4")
            }
            _ => None,
        }
    }

    pub(super) fn draw(&self, random: &mut Random) -> usize {
        match *self {
            Self::Fixed { tokens } => tokens,
            Self::Uniform { min, max } => min + random.below(max - min + 1),
            Self::Geometric { mean, max } => {
                // The floor of an exponential is geometric.
                let scale = -1.0 / (-1.0 / mean).ln_1p();
                clipped(1.0 + random.exponential(scale).floor(), max)
            }
            Self::LogNormal { mean, sigma, max } => {
                let middle = mean.ln() - sigma * sigma / 2.0;
                clipped((middle + sigma * random.normal()).exp().round(), max)
            }
        }
    }
}

/// A number that is no number becomes 1.
fn clipped(length: f64, max: usize) -> usize {
    (length as usize).clamp(1, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(lengths: Lengths) -> f64 {
        let mut random = Random::stream(5, 1);
        let n = 100_000;
        let sum: usize = (0..n).map(|_| lengths.draw(&mut random)).sum();
        sum as f64 / n as f64
    }

    #[test]
    fn means_are_as_told_and_bounds_hold() {
        let close = |lengths, expected: f64| {
            let mean = mean(lengths);
            assert!(
                (mean - expected).abs() < 0.02 * expected,
                "{lengths:?}: {mean}"
            );
        };
        close(Lengths::Fixed { tokens: 7 }, 7.0);
        close(Lengths::Uniform { min: 10, max: 30 }, 20.0);
        close(
            Lengths::Geometric {
                mean: 100.0,
                max: MOST,
            },
            100.0,
        );
        close(Lengths::Geometric { mean: 1.0, max: 9 }, 1.0);
        close(
            Lengths::LogNormal {
                mean: 200.0,
                sigma: 1.0,
                max: MOST,
            },
            200.0,
        );
        close(
            Lengths::LogNormal {
                mean: 200.0,
                sigma: 0.0,
                max: MOST,
            },
            200.0,
        );
        let mut random = Random::stream(5, 2);
        let cut = Lengths::LogNormal {
            mean: 50.0,
            sigma: 2.0,
            max: 60,
        };
        let drawn: Vec<usize> = (0..10_000).map(|_| cut.draw(&mut random)).collect();
        assert_eq!(
            (drawn.iter().min(), drawn.iter().max()),
            (Some(&1), Some(&60))
        );
    }

    #[test]
    fn what_cannot_be_drawn_is_a_fault() {
        let faults = [
            Lengths::Fixed { tokens: 0 },
            Lengths::Fixed { tokens: MOST + 1 },
            Lengths::Uniform { min: 0, max: 4 },
            Lengths::Uniform { min: 5, max: 4 },
            Lengths::Geometric { mean: 0.5, max: 4 },
            Lengths::Geometric {
                mean: f64::NAN,
                max: 4,
            },
            Lengths::LogNormal {
                mean: 5.0,
                sigma: -1.0,
                max: 4,
            },
            Lengths::LogNormal {
                mean: 5.0,
                sigma: f64::INFINITY,
                max: 4,
            },
        ];
        for lengths in faults {
            assert!(lengths.fault().is_some(), "{lengths:?}");
        }
    }
}
