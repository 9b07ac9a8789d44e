//! The best of a row, without sorting it.

use std::cmp::Ordering;

use super::survey::Survey;
use crate::ids::TokenId;

/// Logits looked at together: enough to make one comparison stand for many.
pub(super) const BLOCK: usize = 64;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) id: TokenId,
}

impl Candidate {
    /// One number to compare by, without a branch: the greater, the better. Logits are never NaN
    /// here.
    #[inline]
    fn rank(&self) -> u64 {
        // Both zeros are one; then the bits of positive numbers are in order, and those of
        // negative ones in reverse.
        let bits = (self.logit + 0.0).to_bits();
        let negative = (bits.cast_signed() >> 31).cast_unsigned();
        let ordered = bits ^ (negative | 1 << 31);
        u64::from(ordered) << 32 | u64::from(!self.id)
    }
}

/// Greater logit first, then lower id.
#[inline]
pub(super) fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.rank().cmp(&a.rank())
}

/// Fills `out` with the `k` best tokens whose logit is at least `floor`, in no order. Tokens ruled
/// out are never among them. `survey` is that of `logits`.
///
/// Where there are more blocks than `k`, the `k`-th best of their best is a bar that `k` tokens
/// reach: little more than `k` blocks are looked into. Keeps up to twice `k`, then drops the worse
/// half and raises the bar: each token is compared once, few are moved, and no order of logits
/// makes it more than linear.
pub(super) fn best(
    logits: &[f32],
    survey: &Survey,
    floor: f32,
    k: usize,
    out: &mut Vec<Candidate>,
) {
    out.clear();
    let k = k.min(logits.len());
    if k == 0 {
        return;
    }
    let room = (2 * k).max(BLOCK);
    let mut bar = floor.max(f32::MIN);
    if k < survey.greatest().len() {
        out.extend(
            (0..)
                .zip(survey.greatest())
                .map(|(id, &logit)| Candidate { logit, id }),
        );
        bar = bar.max(keep_best(out, k));
        out.clear();
    }
    for (first, most, block) in survey.blocks(logits) {
        if most < bar {
            continue;
        }
        for (id, &logit) in (first..).zip(block) {
            if logit >= bar {
                out.push(Candidate { logit, id });
                if out.len() == room && room > k {
                    let worst = keep_best(out, k);
                    // Ids only grow from here, so an equal of the worst kept has lost.
                    bar = worst.next_up();
                }
            }
        }
    }
    keep_best(out, k);
}

/// Keeps the `k` best, `k` at least 1, and returns the worst logit among them.
fn keep_best(candidates: &mut Vec<Candidate>, k: usize) -> f32 {
    if candidates.len() > k {
        candidates.select_nth_unstable_by(k - 1, better_first);
        candidates.truncate(k);
        return candidates[k - 1].logit;
    }
    f32::MIN
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The survey of a sound row.
    pub(in super::super) fn surveyed(logits: &[f32]) -> Survey {
        let mut survey = Survey::default();
        survey.take(logits);
        assert!(survey.is_sound());
        survey
    }

    /// Few distinct values, so that ties are the rule.
    pub(in super::super) fn tied_logits(most: usize) -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            8 => (-6i8..=6).prop_map(|x| f32::from(x) * 0.5),
            1 => Just(f32::NEG_INFINITY),
            1 => Just(-0.0f32),
            1 => Just(f32::MIN),
            2 => -8.0f32..8.0,
        ];
        prop::collection::vec(logit, 1..most)
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_a_full_sort(
            logits in tied_logits(900), k in 0usize..80, floor in -9.0f32..9.0,
        ) {
            let mut sorted: Vec<Candidate> = (0..).zip(&logits)
                .map(|(id, &logit)| Candidate { logit, id })
                .filter(|c| c.logit >= floor && c.logit > f32::NEG_INFINITY)
                .collect();
            sorted.sort_by(better_first);
            sorted.truncate(k);
            let mut found = Vec::new();
            best(&logits, &surveyed(&logits), floor, k, &mut found);
            found.sort_by(better_first);
            prop_assert_eq!(found, sorted);
        }
    }

    #[test]
    fn ranks_are_in_the_order_of_logits_and_then_of_ids() {
        let ladder = [
            f32::MAX,
            2.0,
            1.0f32.next_up(),
            1.0,
            f32::MIN_POSITIVE,
            1e-45,
            0.0,
            -1e-45,
            -1.0,
            -2.0,
            f32::MIN,
            f32::NEG_INFINITY,
        ];
        let ranked: Vec<Candidate> = ladder
            .iter()
            .flat_map(|&logit| [0, 1, 1 << 31, TokenId::MAX].map(|id| Candidate { logit, id }))
            .collect();
        for pair in ranked.windows(2) {
            assert_eq!(better_first(&pair[0], &pair[1]), Ordering::Less, "{pair:?}");
        }
        let (plus, minus) = (
            Candidate { logit: 0.0, id: 3 },
            Candidate { logit: -0.0, id: 3 },
        );
        assert_eq!(better_first(&plus, &minus), Ordering::Equal);
    }

    #[test]
    fn rising_and_falling_rows_are_linear_and_right() {
        let rising: Vec<f32> = (0..100_000u32).map(|i| i as f32).collect();
        let falling: Vec<f32> = rising.iter().rev().copied().collect();
        for (row, first) in [(&rising, 99_999), (&falling, 0)] {
            let mut found = Vec::new();
            best(row, &surveyed(row), f32::MIN, 50, &mut found);
            found.sort_by(better_first);
            assert_eq!(found.len(), 50);
            assert_eq!(found[0].id, first);
        }
    }
}
