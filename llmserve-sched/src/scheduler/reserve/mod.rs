//! Room for what running sequences may still generate, as it stands.

mod ended;

use super::sequence::Sequence;
use crate::reservation::Reservation;
use ended::Ended;

/// Tokens that one [bucket](Bucket) of remaining lengths is wide.
const WIDTH: usize = 16;

/// What is expected of the running, and the share of it that is kept.
#[derive(Debug)]
pub(super) struct Reserve {
    rules: Option<Reservation>,
    /// The share in force of what is expected.
    share: f64,
    ended: Ended,
    buckets: Vec<Bucket>,
    /// When the buckets were filled: the plan, and departures so far.
    filled: (u64, u64),
}

/// Running sequences that are expected to generate about as much more.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// How many.
    sequences: usize,
    /// Tokens that their ends will free, without what they have yet to generate.
    frees: usize,
}

/// What one sequence counts for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// How many it stands for.
    pub(super) seats: usize,
    /// Tokens each is expected to generate.
    pub(super) tokens: usize,
    /// Tokens whose blocks its end frees.
    pub(super) frees: usize,
}

impl Reserve {
    pub(super) fn new(rules: Option<Reservation>) -> Self {
        Self {
            share: rules.map_or(0.0, |rules| rules.initial),
            ended: Ended::default(),
            buckets: Vec::new(),
            filled: (0, 0),
            rules,
        }
    }

    /// The share in force.
    pub(super) fn share(&self) -> f64 {
        self.share
    }

    /// What a sequence counts for, given that it has not ended yet.
    pub(super) fn expected(&self, sequence: &mut Sequence) -> Expected {
        let most = self.rules.map_or(0, |rules| rules.most_tokens);
        if sequence.expected <= sequence.generated {
            sequence.expected = self.ended.length(
                sequence.generated,
                sequence.max_new_tokens,
                sequence.number(),
            );
        }
        Expected {
            seats: sequence.seats,
            tokens: (sequence.expected - sequence.generated).min(most),
            frees: sequence.known.saturating_sub(sequence.cached),
        }
    }

    /// Whether the buckets must be [filled](Self::add) anew.
    pub(super) fn begin(&mut self, step: u64, departures: u64) -> bool {
        let now = (step, departures);
        let stale = self.rules.is_some() && std::mem::replace(&mut self.filled, now) != now;
        if stale {
            self.buckets.clear();
        }
        stale
    }

    /// Whether somebody has left since the buckets were filled.
    pub(super) fn is_behind(&self, departures: u64) -> bool {
        self.filled.1 != departures
    }

    /// The buckets must be filled anew.
    pub(super) fn forget(&mut self) {
        self.filled = (0, 0);
    }

    /// A sequence runs.
    pub(super) fn add(&mut self, expected: Expected) {
        if self.rules.is_none() {
            return;
        }
        let at = expected.tokens.div_ceil(WIDTH);
        if at >= self.buckets.len() {
            self.buckets.resize(at + 1, Bucket::default());
        }
        self.buckets[at].sequences += expected.seats;
        self.buckets[at].frees += expected.frees;
    }

    /// One that was added does not.
    pub(super) fn remove(&mut self, expected: Expected) {
        if let Some(bucket) = self.buckets.get_mut(expected.tokens.div_ceil(WIDTH)) {
            bucket.sequences -= expected.seats;
            bucket.frees -= expected.frees;
        }
    }

    /// Blocks to keep free of a newcomer, beside those it needs now, where there are `total`.
    ///
    /// Those who run and the newcomer all go on until the first of them is expected to end, whose
    /// blocks are free then; the rest go on, and so on. What is kept is a share of the most that
    /// this ever takes beyond what is taken now, and the margin.
    pub(super) fn blocks(&self, newcomer: Expected, block_size: usize, total: usize) -> usize {
        let Some(rules) = self.rules else { return 0 };
        let own = newcomer.tokens.div_ceil(WIDTH);
        let mut alive = newcomer.seats;
        alive += self
            .buckets
            .iter()
            .map(|bucket| bucket.sequences)
            .sum::<usize>();
        let (mut freed, mut peak) = (0, 0);
        for (at, bucket) in self.buckets.iter().enumerate() {
            if bucket.sequences > 0 || at == own {
                peak = peak.max((alive * at * WIDTH).saturating_sub(freed));
            }
            alive -= bucket.sequences;
            freed += bucket.frees;
            if at == own {
                alive -= newcomer.seats;
                freed += newcomer.frees;
            }
        }
        if own >= self.buckets.len() {
            peak = peak.max((alive * own * WIDTH).saturating_sub(freed));
        }
        let kept = ((peak as f64 * self.share) as usize).div_ceil(block_size.max(1));
        kept + (rules.margin * total as f64) as usize
    }

    /// A step was planned.
    pub(super) fn planned(&mut self, preempted: bool) {
        let Some(rules) = self.rules else { return };
        self.share = if preempted {
            (self.share + rules.rise).min(1.0)
        } else {
            let decay = (rules.initial - rules.least) / f64::from(rules.decay_steps);
            (self.share - decay).max(rules.least)
        };
    }

    /// A sequence ended that had generated so many of at most so many tokens.
    pub(super) fn ended(&mut self, generated: usize, most: usize) {
        if self.rules.is_some() && generated > 0 {
            self.ended.note(generated as f32 / most.max(1) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_decays_to_its_least_and_rises_with_a_preemption() {
        let mut reserve = Reserve::new(Some(Reservation {
            least: 0.1,
            decay_steps: 600,
            rise: 0.2,
            ..Reservation::default()
        }));
        assert_eq!(reserve.share(), 0.7);
        (0..300).for_each(|_| reserve.planned(false));
        assert!((reserve.share() - 0.4).abs() < 1e-9);
        (0..900).for_each(|_| reserve.planned(false));
        assert_eq!(reserve.share(), 0.1);
        reserve.planned(true);
        assert!((reserve.share() - 0.3).abs() < 1e-9);
        (0..9).for_each(|_| reserve.planned(true));
        assert_eq!(reserve.share(), 1.0);
    }

    fn all() -> Reserve {
        Reserve::new(Some(Reservation {
            initial: 1.0,
            margin: 0.0,
            ..Reservation::default()
        }))
    }

    fn expected(seats: usize, tokens: usize, frees: usize) -> Expected {
        Expected {
            seats,
            tokens,
            frees,
        }
    }

    #[test]
    fn what_is_kept_is_the_most_that_is_ever_taken() {
        let mut reserve = all();
        reserve.begin(1, 1);
        // Both grow by 32 tokens, then the newcomer by 64 beside what the other frees: 320 tokens.
        reserve.add(expected(1, 32, 320));
        assert_eq!(reserve.blocks(expected(1, 96, 32), 16, 100), 4);
        // It frees nothing: 96 tokens of one, 32 of the other.
        reserve.remove(expected(1, 32, 320));
        reserve.add(expected(1, 32, 0));
        assert_eq!(reserve.blocks(expected(1, 96, 32), 16, 100), 6);
        // Four choices.
        assert_eq!(reserve.blocks(expected(4, 16, 0), 16, 100), 5);
        assert!(!reserve.begin(1, 1) && reserve.begin(1, 2), "anew");
        assert_eq!(reserve.blocks(expected(4, 16, 0), 16, 100), 4);
    }

    #[test]
    fn the_share_and_the_margin_count() {
        let rules = Reservation {
            initial: 0.5,
            margin: 0.05,
            ..Reservation::default()
        };
        let reserve = Reserve::new(Some(rules));
        assert_eq!(reserve.blocks(expected(1, 160, 0), 16, 100), 5 + 5);
        assert_eq!(
            Reserve::new(None).blocks(expected(9, 160, 0), 16, 100),
            0,
            "none is kept where there is no reservation"
        );
    }
}
