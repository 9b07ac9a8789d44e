//! A sequence's rows that were planned and not committed yet.

/// Rows in flight, oldest first: one bit each, set for a row that samples.
///
/// Rows are committed in the order they were planned, so nothing else need be remembered of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    /// The oldest row is the lowest bit; bits from `rows` up are clear.
    samples: u64,
    rows: u32,
}

impl Flight {
    /// Whether no further row can be remembered. No host plans that far ahead.
    pub(super) fn is_full(self) -> bool {
        self.rows == u64::BITS
    }

    /// Rows in flight.
    pub(super) fn len(self) -> usize {
        self.rows as usize
    }

    pub(super) fn is_empty(self) -> bool {
        self.rows == 0
    }

    /// Tokens that are on their way: one for each row that samples.
    pub(super) fn pending(self) -> usize {
        self.samples.count_ones() as usize
    }

    /// A row was planned. The caller asked [`is_full`](Self::is_full).
    pub(super) fn push(&mut self, samples: bool) {
        self.samples |= u64::from(samples) << self.rows;
        self.rows += 1;
    }

    /// The oldest row was committed: whether it sampled; none if no row was in flight.
    pub(super) fn pop(&mut self) -> Option<bool> {
        self.rows = self.rows.checked_sub(1)?;
        let sampled = self.samples & 1 == 1;
        self.samples >>= 1;
        Some(sampled)
    }

    /// The newest row was taken out of its plan.
    pub(super) fn retract(&mut self) {
        self.rows = self.rows.saturating_sub(1);
        self.samples &= !(1 << self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::Flight;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn agrees_with_a_queue_of_booleans(
            steps in prop::collection::vec((0..4u8, any::<bool>()), 0..300)
        ) {
            let (mut flight, mut model) = (Flight::default(), VecDeque::new());
            for (step, samples) in steps {
                match step {
                    0 => prop_assert_eq!(flight.pop(), model.pop_front()),
                    1 => {
                        flight.retract();
                        model.pop_back();
                    }
                    _ if !flight.is_full() => {
                        flight.push(samples);
                        model.push_back(samples);
                    }
                    _ => prop_assert_eq!(model.len(), 64),
                }
                prop_assert_eq!(flight.is_empty(), model.is_empty());
                prop_assert_eq!(flight.len(), model.len());
                prop_assert_eq!(flight.pending(), model.iter().filter(|s| **s).count());
            }
        }
    }
}
