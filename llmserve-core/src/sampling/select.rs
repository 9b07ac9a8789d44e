//! The best of a row, without sorting it.

use std::cmp::Ordering;

use crate::ids::TokenId;

/// Logits looked at together: enough to make one comparison stand for many.
pub(super) const BLOCK: usize = 64;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) id: TokenId,
}

/// Greater logit first, then lower id. Logits are never NaN here.
pub(super) fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit
        .partial_cmp(&a.logit)
        .unwrap_or(Ordering::Equal)
        .then(a.id.cmp(&b.id))
}

/// The greatest of `block`; negative infinity when there is none.
#[inline]
pub(super) fn greatest(block: &[f32]) -> f32 {
    let mut most = f32::NEG_INFINITY;
    for &logit in block {
        // Unlike `f32::max` this is one instruction for many lanes.
        most = if logit > most { logit } else { most };
    }
    most
}

/// Whether a logit is one a sampler can use: finite, or negative infinity.
fn is_sound(logit: f32) -> bool {
    logit <= f32::MAX
}

/// The best token, lowest id among equals; none when all are ruled out.
///
/// # Errors
/// The first token whose logit is NaN or positive infinity.
pub(super) fn peak(logits: &[f32]) -> Result<Option<Candidate>, TokenId> {
    let mut best = Candidate {
        logit: f32::NEG_INFINITY,
        id: 0,
    };
    for (number, block) in logits.chunks(BLOCK).enumerate() {
        let start = number * BLOCK;
        let mut sound = true;
        for &logit in block {
            sound &= is_sound(logit);
        }
        let most = greatest(block);
        let find = |wanted: &dyn Fn(f32) -> bool| {
            let at = block.iter().position(|&logit| wanted(logit)).unwrap_or(0);
            (start + at) as TokenId
        };
        if !sound {
            return Err(find(&|logit| !is_sound(logit)));
        }
        if most > best.logit {
            best = Candidate {
                logit: most,
                id: find(&|logit| logit == most),
            };
        }
    }
    Ok((best.logit > f32::NEG_INFINITY).then_some(best))
}

/// Fills `out` with the `k` best tokens whose logit is at least `floor`, in no order. Tokens ruled
/// out are never among them.
///
/// Keeps up to twice `k`, then drops the worse half and raises the bar: each token is compared
/// once, few are moved, and no order of logits makes it more than linear.
pub(super) fn best(logits: &[f32], floor: f32, k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let k = k.min(logits.len());
    if k == 0 {
        return;
    }
    let room = (2 * k).max(BLOCK);
    let mut bar = floor.max(f32::MIN);
    for (number, block) in logits.chunks(BLOCK).enumerate() {
        if greatest(block) < bar {
            continue;
        }
        for (id, &logit) in (number * BLOCK..).zip(block) {
            if logit >= bar {
                out.push(Candidate {
                    logit,
                    id: id as TokenId,
                });
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
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            logits in tied_logits(400), k in 0usize..80, floor in -9.0f32..9.0,
        ) {
            let mut sorted: Vec<Candidate> = (0..).zip(&logits)
                .map(|(id, &logit)| Candidate { logit, id })
                .filter(|c| c.logit >= floor && c.logit > f32::NEG_INFINITY)
                .collect();
            sorted.sort_by(better_first);
            sorted.truncate(k);
            let mut found = Vec::new();
            best(&logits, floor, k, &mut found);
            found.sort_by(better_first);
            prop_assert_eq!(found, sorted);
        }

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
    }

    #[test]
    fn rising_and_falling_rows_are_linear_and_right() {
        let rising: Vec<f32> = (0..100_000u32).map(|i| i as f32).collect();
        let falling: Vec<f32> = rising.iter().rev().copied().collect();
        for (row, first) in [(&rising, 99_999), (&falling, 0)] {
            let mut found = Vec::new();
            best(row, f32::MIN, 50, &mut found);
            found.sort_by(better_first);
            assert_eq!(found.len(), 50);
            assert_eq!(found[0].id, first);
        }
        assert_eq!(peak(&[]), Ok(None));
    }

    #[test]
    fn the_first_unsound_logit_is_named() {
        let mut row = vec![0.0f32; 200];
        row[150] = f32::INFINITY;
        row[170] = f32::NAN;
        assert_eq!(peak(&row), Err(150));
        row[3] = f32::NAN;
        assert_eq!(peak(&row), Err(3));
    }
}
