//! Ready-made picks.

use super::{Part, Pick};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::random::Rng;
use crate::strategy::softmax::draw;
use crate::strategy::turns::Turns;

/// The best score; among equals, everyone in turn.
#[derive(Debug, Default)]
pub struct Best {
    turns: Turns,
}

impl Best {
    /// Begins with the first of equals.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Part for Best {
    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
    }
}

impl Pick for Best {
    fn pick(&self, _: &Ask<'_>, _: &Candidates<'_>, scored: &[(Slot, f64)]) -> Option<Slot> {
        let best = scored
            .iter()
            .map(|(_, score)| *score)
            .fold(f64::NEG_INFINITY, f64::max);
        let equals = scored.iter().filter(|(_, score)| *score == best);
        self.turns.give(equals.map(|(slot, _)| *slot))
    }
}

/// Drawn, with a chance that grows with the score: proportional to `exp(score / temperature)`,
/// scores being scaled to 0 for the lowest and 1 for the highest.
///
/// Several routers that see the same do not all run to the same replica.
#[derive(Debug)]
pub struct Softmax {
    temperature: f64,
    rng: Rng,
}

impl Softmax {
    /// Near 0 it is nearly always the best; large, nearly anybody. What is not above 0 is taken as
    /// just above.
    pub fn new(temperature: f64) -> Self {
        Self {
            temperature: temperature.max(1e-6),
            rng: Rng::new(),
        }
    }

    /// The same draws for the same seed. Default: seeded by the system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.rng = Rng::seeded(seed);
        self
    }
}

impl Part for Softmax {}

impl Pick for Softmax {
    fn pick(&self, _: &Ask<'_>, _: &Candidates<'_>, scored: &[(Slot, f64)]) -> Option<Slot> {
        let costs: Vec<_> = scored.iter().map(|(slot, score)| (*slot, -score)).collect();
        draw(&costs, self.temperature, &self.rng)
    }
}

/// Of two drawn at random the one with the better score; with equal scores, the one with fewer
/// outstanding requests.
#[derive(Debug, Default)]
pub struct BetterOfTwo {
    rng: Rng,
}

impl BetterOfTwo {
    /// Seeded by the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same draws for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self {
            rng: Rng::seeded(seed),
        }
    }
}

impl Part for BetterOfTwo {}

impl Pick for BetterOfTwo {
    fn pick(
        &self,
        _: &Ask<'_>,
        candidates: &Candidates<'_>,
        scored: &[(Slot, f64)],
    ) -> Option<Slot> {
        let (one, other) = self.rng.pair(scored.len())?;
        let (one, other) = (scored[one], scored[other]);
        let load = |(slot, _)| candidates.outstanding(slot);
        let better = other.1 > one.1 || (other.1 == one.1 && load(other) < load(one));
        Some(if better { other.0 } else { one.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Prepared;
    use crate::set::ReplicaSet;
    use crate::strategy::testing::Bench;
    use llmserve_core::Request;

    /// How often each of three with these scores is picked of 900 times.
    fn picks(pick: &impl Pick, scores: [f64; 3]) -> [usize; 3] {
        let bench = Bench::of(3).outstanding(&[1, 1, 0]);
        let (request, prepared) = (Request::text(""), Prepared::default());
        let all: ReplicaSet = (0..3).collect();
        let candidates = Candidates::new(&bench.fleet, &bench.loads, &all);
        let scored: Vec<_> = candidates.iter().zip(scores).collect();
        let mut of = [0; 3];
        for _ in 0..900 {
            let picked = pick.pick(&Ask::new(&request, &prepared), &candidates, &scored);
            of[picked.unwrap().index()] += 1;
        }
        of
    }

    #[test]
    fn the_best_is_preferred_and_ties_are_spread() {
        assert_eq!(picks(&Best::new(), [0.5, 2.0, 2.0]), [0, 450, 450]);
        let soft = picks(&Softmax::new(0.5).seed(1), [0.0, 1.0, 2.0]);
        assert!(
            soft[0] < soft[1] && soft[1] < soft[2] && soft[0] > 40,
            "{soft:?}"
        );
        assert_eq!(
            picks(&Softmax::new(0.0).seed(1), [0.0, 1.0, 2.0]),
            [0, 0, 900]
        );
        let two = picks(&BetterOfTwo::seeded(1), [1.0, 3.0, 2.0]);
        assert_eq!(two[0], 0);
        assert!((540..660).contains(&two[1]), "{two:?}");
        // Equal scores: load decides.
        let two = picks(&BetterOfTwo::seeded(1), [1.0; 3]);
        assert!((540..660).contains(&two[2]), "{two:?}");
    }
}
