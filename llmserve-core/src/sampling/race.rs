//! The pick: the greatest scaled logit plus noise, ties to the lower id.
//!
//! Noise costs two logarithms, and nearly every token is far from winning. So the best token
//! goes first, and the others are let in only when their bits could beat the score to beat: one
//! hash and one comparison for a whole group of tokens, not even those when its best logit is out
//! of reach. What is left out could not have won, so the pick is that of the plain definition.

use super::noise::{GROUP, Noise, contenders, group_contenders};
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
    const { assert!(BLOCK == GROUP && Survey::BLOCK == GROUP) };
    for (first, most, block) in survey.blocks(logits) {
        if most < bar.logit {
            continue;
        }
        let lead = leader.score - scaled(most, peak.logit, beta);
        let group = noise.group(first);
        if !group_contenders(lead).is_some_and(|limit| group.is_within(limit)) {
            continue;
        }
        let limit = contenders(lead).unwrap_or(0);
        for (id, &logit) in (first..).zip(block) {
            if (noise.bits(id) <= limit || group.has_least(id))
                && better_first(&Candidate { logit, id }, &bar).is_lt()
            {
                leader.challenge(id, scaled(logit, peak.logit, beta) + noise.gumbel(id));
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
    let mut group = noise.group(peak.id);
    for block in candidates.chunks(BLOCK) {
        let most = block.iter().fold(f32::NEG_INFINITY, |most, c| {
            if c.logit > most { c.logit } else { most }
        });
        let lead = leader.score - scaled(most, peak.logit, beta);
        let Some(group_limit) = group_contenders(lead) else {
            continue;
        };
        let limit = contenders(lead).unwrap_or(0);
        for &Candidate { logit, id } in block {
            // They come in the order of their ids, mostly.
            if !group.includes(id) {
                group = noise.group(id);
            }
            if group.is_within(group_limit) && (group.has_least(id) || noise.bits(id) <= limit) {
                leader.challenge(id, scaled(logit, peak.logit, beta) + noise.gumbel(id));
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
