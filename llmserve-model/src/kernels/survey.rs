//! The survey of rows of logits: each block's greatest logit, and whether all are numbers.

use llmserve_core::Survey;

use super::simd::{LANES, Simd};
use super::{Kernel, Level};
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// Logits of a block.
const BLOCK: usize = Survey::BLOCK;

/// Numbers that [`survey`] writes for a row of `vocab` logits.
pub(crate) fn survey_len(vocab: usize) -> usize {
    vocab.div_ceil(BLOCK) + 1
}

/// Surveys rows of `vocab` logits. For each, `out` gets the greatest logit of each block, and at
/// last a sum that all logits went into: NaN if one of them is, and now and then without.
pub(crate) fn survey(
    team: &mut ThreadTeam,
    level: Level,
    logits: &[f32],
    vocab: usize,
    out: &mut [f32],
) -> Result<(), TaskPanicked> {
    let len = survey_len(vocab);
    let out = Disjoint::new(out);
    let rows = logits.len() / vocab;
    // Waking threads costs more than a few thousand numbers.
    let each = (ALONE / vocab).max(1);
    team.run(rows.div_ceil(each), |task, _| {
        for row in task * each..((task + 1) * each).min(rows) {
            // SAFETY: each row's part is its own, and each row in one task.
            let out = unsafe { out.part(row * len..(row + 1) * len) };
            let logits = &logits[row * vocab..(row + 1) * vocab];
            level.run(Row { logits, out });
        }
    })
}

/// Logits that one thread surveys in less time than another takes to wake.
const ALONE: usize = 16 << 10;

/// One row's work.
struct Row<'a> {
    logits: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Some((sum, greatest)) = self.out.split_last_mut() else {
            return;
        };
        let mut sums = [s.splat(0.0); BLOCK / LANES];
        let (blocks, rest) = self.logits.as_chunks::<BLOCK>();
        for (block, most) in blocks.iter().zip(greatest.iter_mut()) {
            *most = greatest_of(s, block, &mut sums);
        }
        if !rest.is_empty() {
            let mut block = [f32::NEG_INFINITY; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            greatest[blocks.len()] = greatest_of(s, &block, &mut sums);
        }
        let [a, b, c, d] = sums;
        *sum = s.sum(s.add(s.add(a, b), s.add(c, d)));
    }
}

/// The greatest of a block's numbers, NaN left out; adds all of them to `sums`.
#[inline(always)]
fn greatest_of<S: Simd>(s: S, block: &[f32; BLOCK], sums: &mut [S::V; BLOCK / LANES]) -> f32 {
    let mut most = s.splat(f32::NEG_INFINITY);
    for (group, sum) in block.as_chunks::<LANES>().0.iter().zip(sums) {
        let group = s.load(group);
        *sum = s.add(*sum, group);
        // In this order, NaN leaves the maximum as it was.
        most = s.max(group, most);
    }
    let mut lanes = s.lanes(most);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let (a, b) = (lanes[i], lanes[i + width]);
            lanes[i] = if b > a { b } else { a };
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;
    use proptest::prelude::*;

    fn rows() -> impl Strategy<Value = (usize, Vec<f32>)> {
        let logit = |odd: u32| {
            prop_oneof![
                400 => -9.0f32..9.0,
                40 => Just(f32::NEG_INFINITY),
                20 => Just(-0.0f32),
                20 => Just(0.0f32),
                20 => Just(f32::MIN),
                20 => Just(f32::MAX),
                odd => Just(f32::NAN),
                odd => Just(-f32::NAN),
                odd => Just(f32::INFINITY),
            ]
        };
        let logit = prop_oneof![logit(0).boxed(), logit(1).boxed(), logit(200).boxed()];
        let rows = (1usize..400, 1usize..5);
        rows.prop_flat_map(move |(vocab, rows)| {
            let logits = prop::collection::vec(logit.clone(), vocab * rows);
            (Just(vocab), logits)
        })
    }

    proptest! {
        #[test]
        fn a_survey_is_that_of_who_samples((vocab, logits) in rows(), threads in 1usize..4) {
            let mut team = ThreadTeam::new(threads).unwrap();
            let len = survey_len(vocab);
            for level in levels() {
                let mut out = vec![7.0; logits.len() / vocab * len];
                survey(&mut team, level, &logits, vocab, &mut out).unwrap();
                for (row, out) in logits.chunks(vocab).zip(out.chunks(len)) {
                    let mut expected = Survey::default();
                    expected.take(row);
                    let bits = |numbers: &[f32]| -> Vec<u32> {
                        numbers.iter().map(|x| x.to_bits()).collect()
                    };
                    prop_assert_eq!(bits(&out[..len - 1]), bits(expected.greatest()));
                    let mut found = Survey::default();
                    found.fill(&out[..len - 1], !out[len - 1].is_nan());
                    prop_assert!(expected.is_sound() || !found.is_sound());
                }
            }
        }
    }

    #[test]
    fn rows_of_common_logits_raise_no_suspicion() {
        let mut team = ThreadTeam::new(2).unwrap();
        let vocab = 1000;
        let mut logits: Vec<f32> = (0..4 * vocab).map(|i| (i % 97) as f32 - 30.0).collect();
        logits[1500] = f32::NEG_INFINITY;
        logits[2500] = f32::MAX;
        let len = survey_len(vocab);
        for level in levels() {
            let mut out = vec![0.0; 4 * len];
            survey(&mut team, level, &logits, vocab, &mut out).unwrap();
            for row in out.chunks(len) {
                assert!(!row[len - 1].is_nan(), "{level:?}");
            }
        }
    }
}
