//! Ready-made scores.

use parking_lot::Mutex;

use super::{Part, Score, Signal};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::index::PrefixIndex;
use crate::replica::ReplicaInfo;

/// 1 for an idle candidate, 0 for the one with the most outstanding requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue;

/// 1 for an idle candidate, 0 for the one with the most outstanding tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokens;

/// 1 for what is free, 0 for the dearest candidate, and for one whose
/// [cost](ReplicaInfo::cost) is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowCost;

/// 1 for the candidate of the best [quality](ReplicaInfo::quality), 0 for that of the worst, and for
/// one whose quality is not known. Where all have the same, 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality;

/// Scores each candidate by how far its number is from the highest, which has 0.
fn below_most(candidates: &Candidates<'_>, scores: &mut Vec<f64>, number: impl Fn(Slot) -> f64) {
    let most = candidates.iter().map(&number).fold(0.0, f64::max);
    let score = |slot| {
        if most > 0.0 {
            1.0 - number(slot) / most
        } else {
            1.0
        }
    };
    scores.extend(candidates.iter().map(score));
}

impl Part for Queue {}
impl Part for Tokens {}
impl Part for LowCost {}
impl Part for Quality {}

impl Score for Queue {
    fn score(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>, scores: &mut Vec<f64>) {
        below_most(candidates, scores, |slot| {
            candidates.outstanding(slot) as f64
        });
    }
}

impl Score for Tokens {
    fn score(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>, scores: &mut Vec<f64>) {
        below_most(candidates, scores, |slot| {
            candidates.outstanding_tokens(slot) as f64
        });
    }
}

impl Score for LowCost {
    fn score(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>, scores: &mut Vec<f64>) {
        let cost = |slot| candidates.info(slot).and_then(|info| info.cost);
        let most = candidates.iter().filter_map(cost).fold(0.0, f64::max);
        scores.extend(candidates.iter().map(|slot| match cost(slot) {
            Some(cost) if most > 0.0 => 1.0 - cost / most,
            Some(_) => 1.0,
            None => 0.0,
        }));
    }
}

impl Score for Quality {
    fn score(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>, scores: &mut Vec<f64>) {
        let quality = |slot| candidates.info(slot)?.quality.map(f64::from);
        let known = || candidates.iter().filter_map(quality);
        let (worst, best) = (
            known().fold(f64::INFINITY, f64::min),
            known().fold(f64::NEG_INFINITY, f64::max),
        );
        scores.extend(candidates.iter().map(|slot| match quality(slot) {
            Some(quality) if best > worst => (quality - worst) / (best - worst),
            Some(_) => 1.0,
            None => 0.0,
        }));
    }
}

/// The share of the prompt's blocks that a candidate has, by a [`PrefixIndex`]: one on the device
/// counts 1, one in host memory 0.75, one on disk 0.25. 0 where nothing is known of the prompt.
///
/// What is sent somewhere is assumed there at once, as with [`KvAware`](crate::KvAware).
#[derive(Debug)]
pub struct PrefixCached {
    index: PrefixIndex,
    /// By slot index.
    shares: Mutex<Vec<f64>>,
}

impl PrefixCached {
    /// By what this index knows.
    pub fn new(index: PrefixIndex) -> Self {
        Self {
            index,
            shares: Mutex::default(),
        }
    }
}

impl Part for PrefixCached {
    fn signals(&self) -> &[Signal] {
        &[Signal::Blocks]
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        self.index.join(slot, &info.name);
    }

    fn left(&self, slot: Slot) {
        self.index.leave(slot);
    }

    fn dispatched(&self, ask: &Ask<'_>, slot: Slot) {
        self.index.assume(slot, ask.blocks(), ask.now);
    }
}

impl Score for PrefixCached {
    fn score(&self, ask: &Ask<'_>, candidates: &Candidates<'_>, scores: &mut Vec<f64>) {
        let mut shares = self.shares.lock();
        shares.clear();
        shares.resize(candidates.fleet().places(), 0.0);
        let blocks = ask.blocks().len().max(1) as f64;
        self.index
            .find_each(ask.blocks(), Some(ask.now), |slot, has| {
                if let Some(share) = shares.get_mut(slot.index()) {
                    *share = has.credit(0.75, 0.25) / blocks;
                }
            });
        scores.extend(candidates.iter().map(|slot| shares[slot.index()]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Prepared;
    use crate::replica::Replica;
    use crate::set::ReplicaSet;
    use crate::strategy::testing::Bench;
    use llmserve_core::{BlockIdentity, Request};

    fn scored(bench: &Bench, score: &impl Score, prepared: &Prepared) -> Vec<f64> {
        let request = Request::text("");
        let all: ReplicaSet = (0..bench.loads.len()).collect();
        let candidates = Candidates::new(&bench.fleet, &bench.loads, &all);
        let mut scores = Vec::new();
        score.score(&Ask::new(&request, prepared), &candidates, &mut scores);
        scores
    }

    #[test]
    fn what_is_missing_is_the_worst_and_equals_are_equal() {
        let none = Prepared::default();
        let changes: [fn(Replica) -> Replica; 3] = [
            |r| r.cost(2.0).quality(-1.0),
            |r| r.cost(0.5).quality(3.0),
            |r| r,
        ];
        let bench = Bench::with(changes)
            .outstanding(&[4, 1, 0])
            .tokens(&[1, 2, 4]);
        assert_eq!(scored(&bench, &Queue, &none), [0.0, 0.75, 1.0]);
        assert_eq!(scored(&bench, &Tokens, &none), [0.75, 0.5, 0.0]);
        assert_eq!(scored(&bench, &LowCost, &none), [0.0, 0.75, 0.0]);
        assert_eq!(scored(&bench, &Quality, &none), [0.0, 1.0, 0.0]);
        let idle = Bench::with([|r: Replica| r.cost(0.0).quality(0.3); 2]);
        assert_eq!(scored(&idle, &Queue, &none), [1.0, 1.0]);
        assert_eq!(scored(&idle, &LowCost, &none), [1.0, 1.0]);
        assert_eq!(scored(&idle, &Quality, &none), [1.0, 1.0]);
    }

    #[test]
    fn the_share_of_a_prompt() {
        let bench = Bench::of(2);
        let score = PrefixCached::new(PrefixIndex::new());
        for (slot, replica) in bench.fleet.members() {
            score.joined(slot, replica.info());
        }
        let prepared = Prepared {
            blocks: (1..=4).map(BlockIdentity::from_u128).collect(),
            ..Prepared::default()
        };
        assert_eq!(scored(&bench, &score, &prepared), [0.0, 0.0]);
        let short = Prepared {
            blocks: prepared.blocks[..3].to_vec(),
            ..Prepared::default()
        };
        let request = Request::text("");
        score.dispatched(&Ask::new(&request, &short), Slot::new(1, 0));
        assert_eq!(scored(&bench, &score, &prepared), [0.0, 0.75]);
        assert_eq!(scored(&bench, &score, &Prepared::default()), [0.0, 0.0]);
        score.left(Slot::new(1, 0));
        assert_eq!(scored(&bench, &score, &prepared), [0.0, 0.0]);
    }
}
