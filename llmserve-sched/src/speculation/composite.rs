//! One proposer, and another where the first has no idea.

use llmserve_core::{DraftAsk, Error, ModelInfo, Proposer, ProposerLimits, SequenceId};

/// Asks the first, then the second for the sequences that the first gave nothing.
///
/// ```
/// use llmserve_sched::speculation::{Composite, NGram};
/// // Long repetitions first, short ones where there are none.
/// let proposer = Composite::new(NGram::new(4, 8)?, NGram::new(2, 3)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Composite {
    first: Box<dyn Proposer>,
    second: Box<dyn Proposer>,
}

impl Composite {
    /// `first`, then `second`.
    pub fn new(first: impl Proposer + 'static, second: impl Proposer + 'static) -> Self {
        Self {
            first: Box::new(first),
            second: Box::new(second),
        }
    }
}

impl std::fmt::Debug for Composite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Composite").finish_non_exhaustive()
    }
}

impl Proposer for Composite {
    fn prepare(&mut self, target: &ModelInfo, limits: ProposerLimits) -> Result<(), String> {
        self.first.prepare(target, limits)?;
        self.second.prepare(target, limits)
    }

    fn memory_bytes(&self) -> u64 {
        let second = self.second.memory_bytes();
        self.first.memory_bytes().saturating_add(second)
    }

    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        self.first.propose(asks)?;
        let mut served = 0;
        for at in 0..asks.len() {
            if !asks[at].drafted().is_empty() {
                asks.swap(at, served);
                served += 1;
            }
        }
        match &mut asks[served..] {
            [] => Ok(()),
            rest => self.second.propose(rest),
        }
    }

    fn close(&mut self, sequence: SequenceId) {
        self.first.close(sequence);
        self.second.close(sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speculation::NGram;
    use llmserve_core::Sampling;
    use llmserve_core::sampling::Sampler;

    #[test]
    fn the_second_is_asked_where_the_first_has_no_idea() {
        let mut contexts = [vec![1, 2, 9, 1, 2], vec![5, 6, 7, 6], vec![1, 2, 3]];
        let mut samplers = vec![Sampler::new(&Sampling::default(), 0, 0); 3];
        let mut asks: Vec<DraftAsk<'_>> = contexts
            .iter_mut()
            .zip(&mut samplers)
            .enumerate()
            .map(|(slot, (context, sampler))| {
                DraftAsk::new(SequenceId::new(slot as u32, 0), context, 1, 1, sampler)
            })
            .collect();
        let mut composite = Composite::new(NGram::new(2, 2).unwrap(), NGram::new(1, 1).unwrap());
        composite.propose(&mut asks).unwrap();
        asks.sort_by_key(|ask| ask.sequence());
        let drafted: Vec<_> = asks.iter().map(|ask| ask.drafted().to_vec()).collect();
        assert_eq!(drafted, [vec![9], vec![7], vec![]]);
    }
}
