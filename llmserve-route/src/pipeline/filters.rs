//! Ready-made filters.

use super::{Filter, Part};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::set::ReplicaSet;

/// Keeps those that are not much busier than the others: with at most `slack` requests more than
/// `factor` times the candidates' mean.
///
/// Put before a score that draws requests to where their KV is, it keeps that from drowning one
/// replica. The mean, and not the least loaded, is what is compared with: one idle newcomer makes
/// nobody busy.
#[derive(Clone, Copy, Debug)]
pub struct Balanced {
    factor: f64,
    slack: f64,
}

impl Balanced {
    /// At most `slack` requests more than `factor` times the mean.
    pub fn new(factor: f64, slack: usize) -> Self {
        Self {
            factor,
            slack: slack as f64,
        }
    }
}

impl Default for Balanced {
    /// 4 requests more than 1.5 times the mean.
    fn default() -> Self {
        Self::new(1.5, 4)
    }
}

impl Part for Balanced {}

impl Filter for Balanced {
    fn filter(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>, set: &mut ReplicaSet) {
        let load = |slot| candidates.outstanding(slot) as f64;
        let mean = candidates.iter().map(load).sum::<f64>() / candidates.len().max(1) as f64;
        for slot in candidates.iter() {
            if load(slot) > self.factor * mean + self.slack {
                set.remove(slot.index());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pipeline;
    use crate::strategy::testing::Bench;

    #[test]
    fn who_is_far_above_the_mean_is_out() {
        let pipeline = Pipeline::builder()
            .filter(Balanced::new(1.5, 4))
            .build()
            .unwrap();
        // The mean is 8: 16 is the most, and 17 too many.
        let bench = Bench::of(4).outstanding(&[17, 0, 0, 15]);
        let picks: Vec<_> = (0..6).filter_map(|_| bench.pick(&pipeline)).collect();
        assert_eq!(picks, [1, 2, 3, 1, 2, 3]);
    }
}
