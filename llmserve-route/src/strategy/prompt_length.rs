//! Long prompts apart.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::{Strategy, turns::Turns};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// Sends long prompts where they hold up nobody: to replicas set apart for them, or to the one with
/// the fewest outstanding tokens; short ones to the others, by fewest outstanding requests.
///
/// A prompt of a hundred thousand tokens keeps a replica busy for seconds, and short requests
/// behind it wait. A prompt is long from so many tokens on, by
/// [`prompt_tokens`](crate::prompt_tokens). Where no candidate is set apart, long prompts go to any;
/// where all are, short ones do.
///
/// ```
/// use llmserve_route::PromptLength;
/// let strategy = PromptLength::new(8_192).apart("long-1").apart("long-2");
/// # let _ = strategy;
/// ```
#[derive(Debug)]
pub struct PromptLength {
    threshold: u64,
    apart: BTreeSet<String>,
    slots: Mutex<ReplicaSet>,
    turns: Turns,
}

impl PromptLength {
    /// Prompts of `threshold` tokens and more are long.
    pub fn new(threshold: u64) -> Self {
        Self {
            threshold,
            apart: BTreeSet::new(),
            slots: Mutex::default(),
            turns: Turns::default(),
        }
    }

    /// Sets the replica of this name apart for long prompts. It need not be there yet.
    pub fn apart(mut self, name: impl Into<String>) -> Self {
        self.apart.insert(name.into());
        self
    }
}

impl Default for PromptLength {
    /// Long from 4,096 tokens on, nobody set apart.
    fn default() -> Self {
        Self::new(4_096)
    }
}

impl Strategy for PromptLength {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let long = ask.prompt_tokens >= self.threshold;
        let mut set = candidates.set().clone();
        {
            let apart = self.slots.lock();
            if long {
                set.intersect(&apart);
            } else {
                set.subtract(&apart);
            }
        }
        let preferred = if set.is_empty() {
            *candidates
        } else {
            candidates.within(&set)
        };
        if long {
            self.turns.least(&preferred, |_, load| load.tokens)
        } else {
            self.turns
                .least(&preferred, |_, load| u64::from(load.outstanding))
        }
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        if self.apart.contains(&info.name) {
            self.slots.lock().insert(slot.index());
        }
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
        self.slots.lock().remove(slot.index());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::Bench;
    use llmserve_core::Request;

    #[test]
    fn long_and_short_do_not_meet_unless_they_must() {
        let strategy = PromptLength::new(10).apart("r2").apart("r3");
        let bench = Bench::of(4)
            .outstanding(&[3, 4, 0, 0])
            .tokens(&[0, 5, 900, 90])
            .join(&strategy);
        let (long, short) = (Request::tokens([1; 10]), Request::tokens([1; 9]));
        assert_eq!(bench.pick_for(&strategy, &long), Some(3));
        assert_eq!(bench.pick_for(&strategy, &short), Some(0));
        let of = |set: &[usize], request| {
            bench.pick_of(&strategy, request, &set.iter().copied().collect())
        };
        assert_eq!(of(&[0, 1], &long), Some(0));
        assert_eq!(of(&[2, 3], &short), Some(2));
        strategy.left(Slot::new(3, 0));
        assert_eq!(bench.pick_for(&strategy, &long), Some(2));
    }
}
