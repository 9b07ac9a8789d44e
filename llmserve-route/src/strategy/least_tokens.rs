//! The one with the fewest tokens to do.

use super::{Strategy, turns::Turns};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;

/// The candidate with the fewest outstanding tokens, by
/// [`estimated_tokens`](crate::estimated_tokens); among equals, everyone in turn.
///
/// Follows load better than [`LeastLoaded`](crate::LeastLoaded) where prompts differ a lot in
/// length; worse where the estimate is bad, as with requests that name no `max_tokens`.
#[derive(Debug, Default)]
pub struct LeastTokens {
    turns: Turns,
}

impl LeastTokens {
    /// Begins with the first of equals.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for LeastTokens {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        self.turns.least(candidates, |_, load| load.tokens)
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::Bench;

    #[test]
    fn a_book_weighs_more_than_two_pages() {
        let strategy = LeastTokens::new();
        let bench = Bench::of(2).outstanding(&[1, 2]).tokens(&[90_000, 900]);
        assert_eq!(bench.pick(&strategy), Some(1));
        let idle = Bench::of(3);
        let picks: Vec<_> = (0..3).filter_map(|_| idle.pick(&strategy)).collect();
        assert_eq!(picks, [0, 2, 1]);
    }
}
