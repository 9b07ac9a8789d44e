//! The pick: the greatest scaled logit plus noise, ties to the lower id.
//!
//! Noise costs two logarithms, and nearly every token is far from winning. So the best token
//! goes first, and the others are let in only when their bits could beat the score to beat: one
//! hash and one comparison for a token, for a whole block neither when even its best logit is out
//! of reach. What is left out could not have won, so the pick is that of the plain definition.

use super::noise::{Noise, contenders, gumbel};
use super::select::{BLOCK, Candidate, better_first};
use super::survey::Survey;
use crate::ids::TokenId;

/// A logit's distance from the best one, times `beta`, the inverse temperature: at most 0, and
/// never NaN for a sound logit, however small the temperature or large the logits.
#[inline]
pub(super) fn scaled(logit: f32, peak: f32, beta: f64) -> f64 {
    (f64::from(logit) - f64::from(peak)) * beta
}

struct Leader {
    id: TokenId,
    score: f64,
}

impl Leader {
    fn first(peak: Candidate, noise: Noise) -> Self {
        Self {
            id: peak.id,
            score: noise.gumbel(peak.id),
        }
    }

    /// As [`challenge`](Self::challenge), by a token of that distance and those bits.
    #[inline]
    fn challenge_with(&mut self, id: TokenId, scaled: f64, bits: u64) {
        if contenders(self.score - scaled).is_some_and(|limit| bits <= limit) {
            self.challenge(id, scaled + gumbel(bits));
        }
    }

    fn challenge(&mut self, id: TokenId, score: f64) {
        if score > self.score || (score == self.score && id < self.id) {
            *self = Self { id, score };
        }
    }
}

/// Picks from the tokens of a row that are better than `bar`, `peak` among them. `survey` is that
/// of the row, and `peak` its best token.
pub(super) fn pick_from_row(
    logits: &[f32],
    survey: &Survey,
    peak: Candidate,
    bar: Candidate,
    beta: f64,
    noise: Noise,
) -> Candidate {
    let mut leader = Leader::first(peak, noise);
    for (first, most, block) in survey.blocks(logits) {
        if most < bar.logit {
            continue;
        }
        let Some(limit) = contenders(leader.score - scaled(most, peak.logit, beta)) else {
            continue;
        };
        if !noise.any_within(first, block.len(), limit) {
            continue;
        }
        for (id, &logit) in (first..).zip(block) {
            let bits = noise.bits(id);
            if bits <= limit && better_first(&Candidate { logit, id }, &bar).is_lt() {
                leader.challenge_with(id, scaled(logit, peak.logit, beta), bits);
            }
        }
    }
    let logit = logits.get(leader.id as usize).copied();
    Candidate {
        logit: logit.unwrap_or(peak.logit),
        id: leader.id,
    }
}

/// Picks from what the filters left, which includes `peak`. The order of `candidates` does not
/// matter.
pub(super) fn pick_from(
    candidates: &[Candidate],
    peak: Candidate,
    beta: f64,
    noise: Noise,
) -> TokenId {
    let mut leader = Leader::first(peak, noise);
    for block in candidates.chunks(BLOCK) {
        let most = block.iter().fold(f32::NEG_INFINITY, |most, c| {
            if c.logit > most { c.logit } else { most }
        });
        let most = scaled(most, peak.logit, beta);
        let Some(limit) = contenders(leader.score - most) else {
            continue;
        };
        for &Candidate { logit, id } in block {
            let bits = noise.bits(id);
            if bits <= limit {
                leader.challenge_with(id, scaled(logit, peak.logit, beta), bits);
            }
        }
    }
    leader.id
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::surveyed;
    use super::*;
    use proptest::prelude::*;

    /// The definition.
    fn naive(logits: &[f32], peak: Candidate, bar: Candidate, beta: f64, noise: Noise) -> TokenId {
        let mut leader = Leader::first(peak, noise);
        for (id, &logit) in (0..).zip(logits) {
            if (logit, bar.id) < (bar.logit, id) || (logit == bar.logit && id == bar.id) {
                continue;
            }
            leader.challenge(id, scaled(logit, peak.logit, beta) + noise.gumbel(id));
        }
        leader.id
    }

    proptest! {
        #[test]
        fn leaving_out_changes_no_pick(
            logits in prop::collection::vec(prop_oneof![
                9 => -30.0f32..30.0, 1 => Just(f32::NEG_INFINITY), 1 => Just(5.0f32)
            ], 1..700),
            beta in prop_oneof![Just(1e30), 10.0..1e3, 0.3..10.0, Just(1e-30)],
            bar in prop_oneof![Just(f32::NEG_INFINITY), Just(5.0f32), -30.0f32..30.0],
            bar_id in prop_oneof![Just(TokenId::MAX), 0u32..700],
            seed: u64,
        ) {
            let survey = surveyed(&logits);
            let Ok(Some(top)) = survey.peak(&logits) else { return Ok(()) };
            let noise = Noise::new(seed, 0, 0);
            let bar = Candidate { logit: bar, id: bar_id };
            let picked = pick_from_row(&logits, &survey, top, bar, beta, noise);
            prop_assert_eq!(picked.id, naive(&logits, top, bar, beta, noise));
            prop_assert_eq!(picked.logit, logits[picked.id as usize]);
            let none = Candidate { logit: f32::NEG_INFINITY, id: TokenId::MAX };
            let expected = naive(&logits, top, none, beta, noise);
            let mut candidates: Vec<Candidate> = (0..).zip(&logits)
                .map(|(id, &logit)| Candidate { logit, id })
                .filter(|c| c.logit > f32::NEG_INFINITY)
                .collect();
            prop_assert_eq!(pick_from(&candidates, top, beta, noise), expected);
            candidates.reverse();
            prop_assert_eq!(pick_from(&candidates, top, beta, noise), expected);
        }
    }
}
