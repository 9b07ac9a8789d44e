//! What one pass over a row finds out, so that no later one has to read all of it.
//!
//! The greatest logit of each block of [`BLOCK`] tokens: a search for the best tokens, for those
//! above a bar or for a winner of the race looks at the blocks first, a sixty-fourth of the row,
//! and into a block only where something may be found.

use super::select::{BLOCK, Candidate};
use crate::ids::TokenId;

/// Sums taken side by side: enough that an addition need not wait for the one before.
const SUMS: usize = 16;
/// Maxima taken side by side.
const MAXIMA: usize = 8;

/// The greatest logit of each block of a row, in memory that is used again.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    greatest: Vec<f32>,
}

impl Survey {
    /// Looks at all of `logits`.
    ///
    /// # Errors
    /// The first token whose logit is NaN or positive infinity.
    pub(super) fn take(&mut self, logits: &[f32]) -> Result<(), TokenId> {
        self.greatest.clear();
        // A sum is NaN if a logit is, and if two infinities or sums beyond f32 met in it: one
        // addition for a logit then tells whether a closer look is needed.
        let (blocks, rest) = logits.as_chunks();
        self.greatest.resize(blocks.len(), 0.0);
        let mut sum = sweep(blocks, &mut self.greatest);
        if !rest.is_empty() {
            self.greatest.push(greatest(rest));
            sum += rest.iter().sum::<f32>();
        }
        let suspect = sum.is_nan() || self.greatest.contains(&f32::INFINITY);
        match suspect.then(|| logits.iter().position(|&logit| !is_sound(logit))) {
            Some(Some(at)) => Err(at as TokenId),
            _ => Ok(()),
        }
    }

    /// Brings the survey of `logits` up to date where `token`'s logit has changed.
    ///
    /// # Errors
    /// `token`, if its logit is NaN or positive infinity now.
    pub(super) fn update(&mut self, logits: &[f32], token: TokenId) -> Result<(), TokenId> {
        let number = token as usize / BLOCK;
        let (Some(&logit), Some(most)) =
            (logits.get(token as usize), self.greatest.get_mut(number))
        else {
            return Ok(());
        };
        if !is_sound(logit) {
            return Err(token);
        }
        *most = greatest(block(logits, number));
        Ok(())
    }

    /// The greatest logit of each block.
    pub(super) fn greatest(&self) -> &[f32] {
        &self.greatest
    }

    /// The blocks of `logits`, the row that was surveyed: the first token of each, its greatest
    /// logit, and its logits.
    pub(super) fn blocks<'a>(
        &'a self,
        logits: &'a [f32],
    ) -> impl Iterator<Item = (TokenId, f32, &'a [f32])> {
        (0..)
            .step_by(BLOCK)
            .zip(&self.greatest)
            .zip(logits.chunks(BLOCK))
            .map(|((first, &most), block)| (first, most, block))
    }

    /// The best token of the row that was surveyed, lowest id among equals; none when all are
    /// ruled out.
    pub(super) fn peak(&self, logits: &[f32]) -> Option<Candidate> {
        let logit = greatest(&self.greatest);
        if logit == f32::NEG_INFINITY {
            return None;
        }
        let number = self.greatest.iter().position(|&most| most == logit)?;
        let within = block(logits, number).iter().position(|&l| l == logit)?;
        let id = (number * BLOCK + within) as TokenId;
        Some(Candidate { logit, id })
    }
}

/// Whether a logit is one a sampler can use: finite, or negative infinity.
fn is_sound(logit: f32) -> bool {
    logit <= f32::MAX
}

fn block(logits: &[f32], number: usize) -> &[f32] {
    let from = (number * BLOCK).min(logits.len());
    &logits[from..logits.len().min(from + BLOCK)]
}

/// The greater, in one instruction for many lanes, as [`f32::max`] is not.
#[inline]
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The greatest of `logits`; negative infinity when there is none.
fn greatest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; MAXIMA];
    let mut groups = logits.chunks_exact(MAXIMA);
    for group in &mut groups {
        for (lane, &logit) in lanes.iter_mut().zip(group) {
            *lane = greater(*lane, logit);
        }
    }
    for &logit in groups.remainder() {
        lanes[0] = greater(lanes[0], logit);
    }
    reduce(lanes)
}

/// The greatest of each block, and a sum that all logits went into. On its own and of fixed
/// lengths, so that every step of it is for many lanes wherever it is called from.
#[inline(never)]
fn sweep(blocks: &[[f32; BLOCK]], most: &mut [f32]) -> f32 {
    let mut sums = [0f32; SUMS];
    for (block, most) in blocks.iter().zip(most) {
        let mut lanes = [f32::NEG_INFINITY; MAXIMA];
        for group in block.as_chunks::<SUMS>().0 {
            for i in 0..SUMS {
                sums[i] += group[i];
            }
            for half in group.as_chunks::<MAXIMA>().0 {
                for i in 0..MAXIMA {
                    lanes[i] = greater(lanes[i], half[i]);
                }
            }
        }
        *most = reduce(lanes);
    }
    sums.iter().sum()
}

/// By halves, so that it stays in registers.
#[inline]
fn reduce(mut lanes: [f32; MAXIMA]) -> f32 {
    let mut width = MAXIMA / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = greater(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::tied_logits;
    use super::*;
    use proptest::prelude::*;

    fn peak(logits: &[f32]) -> Result<Option<Candidate>, TokenId> {
        let mut survey = Survey::default();
        survey.take(logits)?;
        Ok(survey.peak(logits))
    }

    proptest! {
        #[test]
        fn the_peak_is_the_first_greatest(logits in tied_logits(300)) {
            let mut expected: Option<Candidate> = None;
            for (id, &logit) in (0..).zip(&logits) {
                if logit > expected.map_or(f32::NEG_INFINITY, |best| best.logit) {
                    expected = Some(Candidate { logit, id });
                }
            }
            prop_assert_eq!(peak(&logits), Ok(expected));
        }

        #[test]
        fn an_update_is_a_survey_anew(
            mut logits in tied_logits(300),
            changes in prop::collection::vec((0u32..320, -9.0f32..9.0), 0..20),
        ) {
            let mut survey = Survey::default();
            prop_assert_eq!(survey.take(&logits), Ok(()));
            for (token, logit) in changes {
                if let Some(slot) = logits.get_mut(token as usize) {
                    *slot = logit;
                }
                prop_assert_eq!(survey.update(&logits, token), Ok(()));
            }
            let mut anew = Survey::default();
            prop_assert_eq!(anew.take(&logits), Ok(()));
            prop_assert_eq!(survey.greatest(), anew.greatest());
        }
    }

    #[test]
    fn the_first_unsound_logit_is_named() {
        for len in [200, 192] {
            let mut row = vec![0.0f32; len];
            row[170] = f32::INFINITY;
            assert_eq!(peak(&row), Err(170));
            row[191] = f32::NAN;
            row[150] = -f32::NAN;
            assert_eq!(peak(&row), Err(150));
            row[3] = f32::NAN;
            assert_eq!(peak(&row), Err(3));
        }
        let mut survey = Survey::default();
        assert_eq!(survey.take(&[0.0; 70]), Ok(()));
        assert_eq!(survey.update(&[f32::NAN; 70], 65), Err(65));
    }

    #[test]
    fn sums_that_are_no_numbers_accuse_nobody() {
        // Sums overflow to both infinities, and these meet.
        let mut row = vec![f32::MAX; 640];
        row[320..].fill(f32::NEG_INFINITY);
        let first = Candidate {
            logit: f32::MAX,
            id: 0,
        };
        assert_eq!(peak(&row), Ok(Some(first)));
        assert_eq!(peak(&[f32::NEG_INFINITY; 100]), Ok(None));
        assert_eq!(peak(&[]), Ok(None));
    }
}
