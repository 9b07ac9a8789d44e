//! Logprobs of a token and its best alternatives, from the model's own logits.

use super::mass::Scales;
use super::math::ln;
use super::sampler::SamplerScratch;
use super::select::{best, better_first};
use super::survey::Survey;
use crate::error::Error;
use crate::event::TokenLogprobs;
use crate::ids::TokenId;

/// The natural-log probability of `token` and of the `k` most probable tokens, best first and
/// equals by lower id, under softmax of `logits`, the raw row after `position`.
///
/// `k` may be 0; beyond the vocabulary it gives as many as are possible at all. A token ruled out
/// by the model (a logit of −∞) has a logprob of −∞ and is never an alternative.
///
/// ```
/// use llmserve_core::sampling::{SamplerScratch, logprobs};
/// let mut scratch = SamplerScratch::new();
/// let row = [1.0, 1.0, f32::NEG_INFINITY];
/// let found = logprobs(0, &row, 1, 5, &mut scratch)?;
/// assert!((found.logprob - 0.5f32.ln()).abs() < 1e-6);
/// assert_eq!(found.top.iter().map(|top| top.0).collect::<Vec<_>>(), [0, 1]);
/// # Ok::<(), llmserve_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::NonFiniteLogits`] for a NaN or positive infinity in the row,
/// [`Error::NothingToSample`] for a row of nothing but −∞, [`Error::InvalidRequest`] for a token
/// outside the row.
pub fn logprobs(
    position: usize,
    logits: &[f32],
    token: TokenId,
    k: usize,
    scratch: &mut SamplerScratch,
) -> Result<TokenLogprobs, Error> {
    let mut survey = std::mem::take(&mut scratch.raw);
    survey.take(logits);
    let found = logprobs_surveyed(position, logits, &survey, token, k, scratch);
    scratch.raw = survey;
    found
}

/// [`logprobs`] of a row that has been surveyed: `survey` is that of `logits`.
///
/// # Errors
/// As [`logprobs`], and [`Error::Model`] for a survey that contradicts the row.
pub fn logprobs_surveyed(
    position: usize,
    logits: &[f32],
    survey: &Survey,
    token: TokenId,
    k: usize,
    scratch: &mut SamplerScratch,
) -> Result<TokenLogprobs, Error> {
    let peak = survey
        .check(logits)
        .and_then(|()| survey.peak(logits))
        .map_err(|flaw| flaw.error(position, logits))?
        .ok_or(Error::NothingToSample { position })?;
    let Some(&logit) = logits.get(token as usize) else {
        return Err(Error::invalid_request(
            "prompt",
            format!(
                "token {token} is outside the vocabulary of {}",
                logits.len()
            ),
        ));
    };
    // At least the best's own weight, whatever rounding says.
    let sum = Scales::new(peak.logit, 1.0).map_or(1.0, |scales| scales.all(logits, survey));
    let log_sum = ln(sum.max(1.0));
    let peak = f64::from(peak.logit);
    let logprob = |logit: f32| (f64::from(logit) - peak - log_sum) as f32;

    let candidates = &mut scratch.candidates;
    best(logits, survey, f32::MIN, k, candidates);
    candidates.sort_unstable_by(better_first);
    Ok(TokenLogprobs {
        id: token,
        logprob: logprob(logit),
        top: candidates
            .iter()
            .map(|c| (c.id, logprob(c.logit)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_are_those_of_a_plain_softmax(
            logits in prop::collection::vec(prop_oneof![
                5 => -20.0f32..20.0, 2 => (-3i8..3).prop_map(f32::from),
                1 => Just(f32::NEG_INFINITY),
            ], 1..300),
            shift in prop_oneof![Just(0.0f32), -1e4f32..1e4],
            token in 0usize..300,
            k in 0usize..20,
        ) {
            let logits: Vec<f32> = logits.iter().map(|l| l + shift).collect();
            prop_assume!(logits.iter().any(|l| l.is_finite()));
            let token = token % logits.len();
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let most = f64::from(most);
            let sum: f64 = logits.iter().map(|&l| (f64::from(l) - most).exp()).sum();
            let expected = |l: f32| (f64::from(l) - most - sum.ln()) as f32;
            let mut order: Vec<usize> =
                (0..logits.len()).filter(|&i| logits[i] > f32::NEG_INFINITY).collect();
            order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
            order.truncate(k);

            let mut scratch = SamplerScratch::new();
            let found = logprobs(3, &logits, token as TokenId, k, &mut scratch).unwrap();
            let close = |a: f32, b: f32| a == b || (a - b).abs() <= 1e-6 * b.abs().max(1.0);
            prop_assert!(close(found.logprob, expected(logits[token])));
            let ids: Vec<usize> = found.top.iter().map(|top| top.0 as usize).collect();
            prop_assert_eq!(&ids, &order);
            for (id, logprob) in found.top {
                prop_assert!(close(logprob, expected(logits[id as usize])));
            }
        }
    }

    #[test]
    fn extremes() {
        let mut scratch = SamplerScratch::new();
        let row = [f32::MAX, f32::MIN, f32::NEG_INFINITY];
        let found = logprobs(0, &row, 2, usize::MAX, &mut scratch).unwrap();
        assert_eq!(found.logprob, f32::NEG_INFINITY);
        assert_eq!(found.top.len(), 2);
        assert_eq!(found.top[0], (0, 0.0));
        assert!(
            logprobs(0, &row, 0, 0, &mut scratch)
                .unwrap()
                .top
                .is_empty()
        );
        assert!(matches!(
            logprobs(0, &row, 3, 0, &mut scratch),
            Err(Error::InvalidRequest { .. })
        ));
        assert_eq!(
            logprobs(4, &[f32::NEG_INFINITY], 0, 1, &mut scratch),
            Err(Error::NothingToSample { position: 4 })
        );
        assert!(matches!(
            logprobs(4, &[0.0, f32::NAN], 0, 1, &mut scratch),
            Err(Error::NonFiniteLogits {
                position: 4,
                token: 1,
                ..
            })
        ));
    }
}
