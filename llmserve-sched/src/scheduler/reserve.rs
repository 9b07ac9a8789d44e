//! Room for what running sequences may still generate, as it stands.

use crate::reservation::Reservation;

/// The share in force, and what it is a share of.
#[derive(Debug)]
pub(super) struct Reserve {
    rules: Option<Reservation>,
    share: f64,
    /// Tokens that all running sequences may still generate.
    tokens: usize,
}

impl Reserve {
    pub(super) fn new(rules: Option<Reservation>) -> Self {
        Self {
            share: rules.map_or(0.0, |rules| rules.initial),
            rules,
            tokens: 0,
        }
    }

    /// The share in force.
    pub(super) fn share(&self) -> f64 {
        self.share
    }

    /// What counts of the tokens a sequence may still generate.
    pub(super) fn counted(&self, tokens: usize) -> usize {
        self.rules.map_or(0, |rules| tokens.min(rules.most_tokens))
    }

    /// A sequence runs that may generate so many tokens more.
    pub(super) fn enter(&mut self, counted: usize) {
        self.tokens = self.tokens.saturating_add(counted);
    }

    /// A running one has fewer to go, or has left.
    pub(super) fn leave(&mut self, counted: usize) {
        self.tokens = self.tokens.saturating_sub(counted);
    }

    /// Blocks to keep free of a newcomer that counts for `more` tokens itself.
    pub(super) fn blocks(&self, more: usize, block_size: usize) -> usize {
        self.blocks_without(0, more, block_size)
    }

    /// The same once running ones that count for `less` have left.
    pub(super) fn blocks_without(&self, less: usize, more: usize, block_size: usize) -> usize {
        let tokens = self.tokens.saturating_sub(less).saturating_add(more);
        let tokens = tokens as f64 * self.share;
        (tokens as usize).div_ceil(block_size.max(1))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_decays_to_its_least_and_rises_with_a_preemption() {
        let mut reserve = Reserve::new(Some(Reservation::default()));
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

    #[test]
    fn blocks_are_a_share_of_what_may_still_come() {
        let rules = Reservation {
            initial: 0.5,
            most_tokens: 100,
            ..Reservation::default()
        };
        let mut reserve = Reserve::new(Some(rules));
        let counted = reserve.counted(1_000_000);
        assert_eq!(counted, 100);
        reserve.enter(counted);
        reserve.enter(reserve.counted(28));
        assert_eq!(reserve.blocks(0, 16), 4);
        assert_eq!(reserve.blocks(32, 16), 5);
        reserve.leave(100);
        assert_eq!(reserve.blocks(0, 16), 1);
        assert_eq!(Reserve::new(None).blocks(1000, 16), 0);
    }
}
