//! What one pass over a row finds out, so that no later one has to read all of it.
//!
//! The greatest logit of each block of 64 tokens: a search for the best tokens, for those above a
//! bar or for a winner of the race looks at the blocks first, a sixty-fourth of the row, and into
//! a block only where something may be found.

use super::mask::TokenMask;
use super::select::{BLOCK, Candidate};
use crate::contract::model::ModelError;
use crate::error::Error;
use crate::ids::TokenId;

/// Sums and maxima taken side by side: enough that none need wait for the one before.
const LANES: usize = 16;

/// The greatest logit of each block of a row, and whether all of the row are numbers to work with.
/// Its memory is used again from row to row.
///
/// A model that has the row at hand can make it faster than whoever samples:
/// [`Logits::survey`](crate::Logits::survey). The definition, for a row of `n` logits:
///
/// * block `i` is the tokens from `64 · i` on, 64 of them or as many as are left, so there are
///   `n.div_ceil(64)`;
/// * its greatest logit leaves out NaN, and is negative infinity where nothing else is left;
/// * a row is sound if no logit is NaN or positive infinity.
///
/// ```
/// use llmserve_core::sampling::Survey;
/// let mut row = vec![0.5; 100];
/// row[70] = 2.0;
/// let mut survey = Survey::default();
/// survey.take(&row);
/// assert_eq!(survey.greatest(), [0.5, 2.0]);
/// assert!(survey.is_sound());
/// row[1] = f32::NAN;
/// survey.take(&row);
/// assert_eq!(survey.greatest(), [0.5, 2.0]);
/// assert!(!survey.is_sound());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    greatest: Vec<f32>,
    sound: bool,
}

/// Why a row cannot be sampled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// This token's logit is NaN or positive infinity; the first that is.
    Logit(TokenId),
    /// The survey is not one of the row.
    Survey,
}

impl Survey {
    /// Tokens of a block.
    pub const BLOCK: usize = BLOCK;

    /// Surveys `logits`.
    pub fn take(&mut self, logits: &[f32]) {
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
        self.sound = !suspect || first_unsound(logits).is_none();
    }

    /// Takes over what a model found: each block's greatest logit, and whether the row is sound.
    /// A model that has only a suspicion says that it is not: the row is then looked at.
    pub fn fill(&mut self, greatest: &[f32], sound: bool) {
        self.greatest.clear();
        self.greatest.extend_from_slice(greatest);
        self.sound = sound && self.greatest.iter().all(|&most| is_sound(most));
    }

    /// The greatest logit of each block.
    pub fn greatest(&self) -> &[f32] {
        &self.greatest
    }

    /// Whether the row has neither NaN nor positive infinity. After [`fill`](Self::fill), true
    /// only if the model said so and no block's greatest logit is one of them.
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// Whether it is that of `logits`, of which all are read.
    pub(crate) fn is_of(&self, logits: &[f32]) -> bool {
        let blocks = logits.chunks(BLOCK).map(greatest);
        let sound = first_unsound(logits).is_none();
        blocks.eq(self.greatest.iter().copied()) && (sound || !self.sound)
    }

    /// Whether `logits`, the row that was surveyed, can be sampled from.
    pub(super) fn check(&self, logits: &[f32]) -> Result<(), Flaw> {
        if self.greatest.len() != logits.len().div_ceil(BLOCK) {
            return Err(Flaw::Survey);
        }
        if self.sound {
            return Ok(());
        }
        if let Some(token) = first_unsound(logits) {
            return Err(Flaw::Logit(token));
        }
        // A suspicion that was wrong; but of such a row no block can have such a greatest logit.
        let sound = self.greatest.iter().all(|&most| is_sound(most));
        if sound { Ok(()) } else { Err(Flaw::Survey) }
    }

    /// Brings the survey of `logits`, a sound row, up to date where `token`'s logit has changed.
    ///
    /// # Errors
    /// [`Flaw::Logit`] for `token`, if its logit is NaN or positive infinity now.
    pub(super) fn update(&mut self, logits: &[f32], token: TokenId) -> Result<(), Flaw> {
        let number = token as usize / BLOCK;
        let (Some(&logit), Some(most)) =
            (logits.get(token as usize), self.greatest.get_mut(number))
        else {
            return Ok(());
        };
        if !is_sound(logit) {
            return Err(Flaw::Logit(token));
        }
        *most = greatest(block(logits, number));
        Ok(())
    }

    /// Brings the survey of `logits` up to date where `mask` has ruled tokens out.
    pub(super) fn mask(&mut self, logits: &[f32], mask: &TokenMask) {
        for (number, most) in self.greatest.iter_mut().enumerate() {
            if !mask.spares(number) {
                *most = greatest(block(logits, number));
            }
        }
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
    ///
    /// # Errors
    /// [`Flaw::Survey`] when the row does not have the logit that is said to be its greatest.
    pub(super) fn peak(&self, logits: &[f32]) -> Result<Option<Candidate>, Flaw> {
        let logit = greatest(&self.greatest);
        if logit == f32::NEG_INFINITY {
            return Ok(None);
        }
        let number = self.greatest.iter().position(|&most| most == logit);
        let number = number.ok_or(Flaw::Survey)?;
        let within = block(logits, number).iter().position(|&l| l == logit);
        let id = (number * BLOCK + within.ok_or(Flaw::Survey)?) as TokenId;
        Ok(Some(Candidate { logit, id }))
    }
}

impl Flaw {
    /// The error for a flaw in `logits`, the row after `position`.
    pub(super) fn error(self, position: usize, logits: &[f32]) -> Error {
        match self {
            Flaw::Logit(token) => Error::NonFiniteLogits {
                position,
                token,
                value: logits
                    .get(token as usize)
                    .map_or_else(String::new, f32::to_string),
            },
            Flaw::Survey => contradiction(),
        }
    }
}

/// The error for a survey that is not that of its row.
pub(crate) fn contradiction() -> Error {
    let text = "the survey of a row of logits contradicts the row".to_owned();
    Error::Model(ModelError::Backend(text))
}

/// Whether a logit is one a sampler can use: finite, or negative infinity.
fn is_sound(logit: f32) -> bool {
    logit <= f32::MAX
}

fn first_unsound(logits: &[f32]) -> Option<TokenId> {
    let at = logits.iter().position(|&logit| !is_sound(logit));
    at.map(|at| at as TokenId)
}

fn block(logits: &[f32], number: usize) -> &[f32] {
    let from = (number * BLOCK).min(logits.len());
    &logits[from..logits.len().min(from + BLOCK)]
}

/// The greater, in one instruction for many lanes, as [`f32::max`] is not. `a` when `b` is NaN.
#[inline]
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The greatest of `logits`; negative infinity when there is none.
fn greatest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (groups, rest) = logits.as_chunks::<LANES>();
    for group in groups.iter().map(<[f32; LANES]>::as_slice).chain([rest]) {
        for (lane, &logit) in lanes.iter_mut().zip(group) {
            *lane = greater(*lane, logit);
        }
    }
    reduce(lanes)
}

/// The greatest of each block, and a sum that all logits went into. On its own and of fixed
/// lengths, so that every step of it is for many lanes wherever it is called from.
#[inline(never)]
fn sweep(blocks: &[[f32; BLOCK]], most: &mut [f32]) -> f32 {
    let mut sums = [0f32; LANES];
    for (block, most) in blocks.iter().zip(most) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for group in block.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                sums[i] += group[i];
                lanes[i] = greater(lanes[i], group[i]);
            }
        }
        *most = reduce(lanes);
    }
    sums.iter().sum()
}

/// By halves, so that it stays in registers.
#[inline]
fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
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

    fn surveyed(logits: &[f32]) -> Survey {
        let mut survey = Survey::default();
        survey.take(logits);
        survey
    }

    fn peak(logits: &[f32]) -> Result<Option<Candidate>, Flaw> {
        let survey = surveyed(logits);
        survey.check(logits)?;
        survey.peak(logits)
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
            let mut survey = surveyed(&logits);
            for (token, logit) in changes {
                if let Some(slot) = logits.get_mut(token as usize) {
                    *slot = logit;
                }
                prop_assert_eq!(survey.update(&logits, token), Ok(()));
            }
            prop_assert_eq!(survey, surveyed(&logits));
        }
    }

    #[test]
    fn the_first_unsound_logit_is_named() {
        for len in [200, 192] {
            let mut row = vec![0.0f32; len];
            row[170] = f32::INFINITY;
            assert_eq!(peak(&row), Err(Flaw::Logit(170)));
            row[191] = f32::NAN;
            row[150] = -f32::NAN;
            assert_eq!(peak(&row), Err(Flaw::Logit(150)));
            row[3] = f32::NAN;
            assert_eq!(peak(&row), Err(Flaw::Logit(3)));
        }
        let mut survey = surveyed(&[0.0; 70]);
        assert_eq!(survey.update(&[f32::NAN; 70], 65), Err(Flaw::Logit(65)));
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

    #[test]
    fn what_a_model_says_is_not_believed_where_that_is_cheap() {
        let mut row = [1.0f32; 130];
        row[70] = 3.0;
        let found = |greatest: &[f32], sound, row: &[f32]| {
            let mut survey = Survey::default();
            survey.fill(greatest, sound);
            survey.check(row)?;
            survey.peak(row)
        };
        let best = Candidate { logit: 3.0, id: 70 };
        assert_eq!(found(&[1.0, 3.0, 1.0], true, &row), Ok(Some(best)));
        assert_eq!(found(&[1.0, 3.0, 1.0], false, &row), Ok(Some(best)));
        for wrong in [
            &[][..],
            &[1.0, 3.0],
            &[1.0, 3.0, 1.0, 1.0],
            &[3.0, 1.0, 1.0],
            &[1.0, 4.0, 1.0],
            &[1.0, 2.0, 1.0],
            &[1.0, f32::INFINITY, 1.0],
            &[1.0, 3.0, f32::NAN],
        ] {
            for sound in [false, true] {
                assert_eq!(found(wrong, sound, &row), Err(Flaw::Survey), "{wrong:?}");
            }
        }
        row[129] = f32::INFINITY;
        let greatest = [1.0, 3.0, f32::INFINITY];
        for sound in [false, true] {
            assert_eq!(found(&greatest, sound, &row), Err(Flaw::Logit(129)));
        }
        let mut survey = surveyed(&row);
        assert!(survey.is_of(&row));
        survey.fill(&greatest, true);
        assert!(survey.is_of(&row));
        survey.fill(&[1.0, 2.9, f32::INFINITY], false);
        assert!(!survey.is_of(&row));
        row[129] = f32::NAN;
        survey.fill(&[1.0, 3.0, 1.0], true);
        assert!(!survey.is_of(&row));
    }
}
