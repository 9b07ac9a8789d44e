//! A row's result depends on its own tokens and positions alone, bit for bit.

use proptest::prelude::*;

use super::super::{Bf16, F32, KvFormat};
use super::driver::{Case, How, plainly, same};

/// Steps in which one sequence takes the chunks given.
fn alone(chunks: &[usize]) -> Vec<Vec<usize>> {
    chunks.iter().map(|chunk| vec![*chunk]).collect()
}

fn long_contexts<F: KvFormat>() {
    let case = Case::new(4, 2, 16, &[530], 3);
    for how in plainly() {
        let whole = case.run::<F>(how, &alone(&[530]));
        for (block_size, chunks) in [
            (32, vec![255, 1, 1, 273]),
            (40, vec![254, 5, 252, 19]),
            (1, vec![530]),
            (530, vec![100, 430]),
            (48, vec![511, 2, 17]),
        ] {
            let how = How { block_size, ..how };
            assert!(same(&whole, &case.run::<F>(how, &alone(&chunks))));
        }
    }
}

#[test]
fn long_contexts_whatever_the_blocks_and_chunks() {
    long_contexts::<F32>();
    long_contexts::<Bf16>();
}

fn cut_contexts<F: KvFormat>() {
    // Long enough beside the others that it becomes several tasks.
    let case = Case::new(4, 2, 8, &[2080, 40, 300], 5);
    let mut steps = vec![vec![2048, 30, 256], vec![19, 0, 0]];
    steps.push(vec![1, 1, 20]);
    steps.extend(vec![vec![1, 1, 1]; 9]);
    steps.push(vec![3, 0, 15]);
    for how in plainly() {
        let plain = case.run::<F>(how, &case.whole());
        for (threads, block_size) in [(2, 16), (3, 17), (5, 32)] {
            let how = How {
                threads,
                block_size,
                ..how
            };
            assert!(same(&plain, &case.run::<F>(how, &steps)));
        }
    }
}

#[test]
fn a_context_that_several_tasks_share() {
    cut_contexts::<F32>();
    cut_contexts::<Bf16>();
}

fn tokens_to_come<F: KvFormat>() {
    let plain = Case::new(3, 1, 16, &[300], 9);
    let width = plain.width();
    // In the middle of a tile, of a pair, of a chunk, and around a split's end.
    for bad in [1, 7, 100, 255, 256, 299] {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut poisoned = plain.clone();
            poisoned.sequences[0][bad * width..].fill(poison);
            for how in plainly() {
                let rows = bad * 3 * 16;
                let good = plain.run::<F>(how, &plain.whole());
                let bad = poisoned.run::<F>(how, &plain.whole());
                assert!(same(
                    &[good[0][..rows].to_vec()],
                    &[bad[0][..rows].to_vec()]
                ));
                assert!(bad[0][rows..].iter().all(|x| !x.is_finite()));
            }
        }
    }
}

#[test]
fn tokens_to_come_leave_no_trace_whatever_they_are() {
    tokens_to_come::<F32>();
    tokens_to_come::<Bf16>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Neither block size, chunks, company nor threads can be told from a result.
    #[test]
    fn only_positions_matter(
        kv_heads in 1usize..3,
        shared in 1usize..15,
        half in 1usize..20,
        cuts in prop::collection::vec(prop::collection::vec(0usize..24, 3), 1..5),
        block_size in prop::sample::select(vec![1usize, 3, 4, 5, 16, 17, 32, 40]),
        seed: u32,
    ) {
        let lens: Vec<usize> = (0..3).map(|i| 1 + cuts.iter().map(|c| c[i]).sum::<usize>()).collect();
        let case = Case::new(kv_heads * shared, kv_heads, 2 * half, &lens, seed);
        let mut steps = cuts.clone();
        steps.insert(0, vec![1; 3]);
        for how in plainly() {
            let other = How { threads: 3, block_size, ..how };
            let plain = case.run::<F32>(how, &case.whole());
            prop_assert!(same(&plain, &case.run::<F32>(other, &steps)));
            let plain = case.run::<Bf16>(how, &case.whole());
            prop_assert!(same(&plain, &case.run::<Bf16>(other, &steps)));
            // Alone, and token by token.
            let mut first = case.clone();
            first.sequences.truncate(1);
            let ones = alone(&vec![1; lens[0]]);
            prop_assert!(same(&plain[..1], &first.run::<Bf16>(other, &ones)));
        }
    }
}
